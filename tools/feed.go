package tools

import (
	"errors"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"bpf_tools_exporter/tools/output"
)

// mapKeys is how many keys a bpftrace map can hold. What a full map drops shows
// in the total that is counted beside it.
const mapKeys = 8192

// maxValue bounds what a map can have counted: nanoseconds of 146 years. Maps
// of stats() are not taken at all: bpftrace 0.17 keeps their two halves apart
// and prints garbage for one that it reads while it is being made.
const maxValue = 1 << 62

// maxShown bounds a value of an event that is kept, in bytes.
const maxShown = 4 << 10

// other is the label value of what could not be told apart any more.
const other = "other"

// counters are what a tool's feed counts about itself.
type counters struct {
	events, lost, notShown, parseErrors, stale atomic.Uint64
}

// A feed turns the decoded output of one source into the samples and events of
// its tool. Its methods are called by one goroutine.
type feed struct {
	d        *Definition
	s        *Source
	sink     Sink
	ring     *Ring
	counters *counters
	own      *ownDoings
	gate     *gate // nil for a source that need not prove anything
	limit    *rowLimit
	now      func() time.Time

	stacks func(output.Stack) // takes stacks, with comm and pid in Keys; nil drops them

	labels map[*Metric][]expression
	fields []expression // by the index of the field; nil if the source does not give it
	maps   map[string]*mapFeed
	values []string // reused by labelsOf
	least  float64  // that is shown
	rows   uint64   // of this process
	hidden uint64   // events of this process that have been counted as not shown
}

// mapFeed follows one map through its cumulative values.
type mapFeed struct {
	name   string
	def    *Map // nil for a map that only helps another
	metric *Metric
	at     []int // the column of each key
	withAt []int // the columns with a fixed value
	with   []string
	slot   bool
	seen   map[string]uint64
	sum    uint64            // of all values seen
	spare  uint64            // of sum, or of what it lacks, that was passed on elsewhere
	excess map[string]uint64 // with Minus: exported so far
}

func newFeed(d *Definition, s *Source, options map[string]string, sink Sink, ring *Ring, c *counters, own *ownDoings) *feed {
	f := &feed{d: d, s: s, sink: sink, ring: ring, counters: c, own: own, limit: newRowLimit(), now: time.Now,
		labels: make(map[*Metric][]expression), fields: make([]expression, len(d.Fields)), maps: make(map[string]*mapFeed)}
	for i, field := range d.Fields {
		f.fields[i] = s.set[field.Name]
	}
	for _, m := range d.Metrics {
		for _, label := range m.Labels {
			f.labels[m] = append(f.labels[m], s.set[label])
		}
	}
	for name, m := range s.Maps {
		f.addMap(name, m)
	}
	if s.Stacks != nil {
		f.addMap(s.Stacks.Total, nil)
	}
	for _, m := range s.Maps {
		for _, helper := range []string{m.Total, m.Minus, s.Events, s.Lost} {
			if helper != "" && f.maps["@"+helper] == nil {
				f.addMap(helper, nil)
			}
		}
	}
	f.reset()
	if least, err := strconv.ParseFloat(d.option(s.Shown.Option, options), 64); err == nil {
		f.least = least * s.Shown.Scale
	}
	return f
}

func (f *feed) addMap(name string, def *Map) {
	m := &mapFeed{name: "@" + name, def: def}
	if def != nil {
		m.metric = f.d.Metric(def.Metric)
		for _, key := range def.Keys {
			m.at = append(m.at, indexOf(f.s.columns, key))
		}
		for _, column := range sortedKeys(def.With) {
			m.withAt = append(m.withAt, indexOf(f.s.columns, column))
			m.with = append(m.with, def.With[column])
		}
		m.slot = def.hasSlot()
	}
	f.maps[m.name] = m
}

func indexOf(list []string, s string) int {
	for i := range list {
		if list[i] == s {
			return i
		}
	}
	return -1
}

// reset forgets the process that the values came from: the next one counts
// from zero.
func (f *feed) reset() {
	f.rows, f.hidden = 0, 0
	for _, m := range f.maps {
		m.seen, m.excess = make(map[string]uint64), make(map[string]uint64)
		m.sum, m.spare = 0, 0
	}
}

// mapNames are the maps to ask for, in this order: totals, so that a total never
// counts what its map does not hold yet; what something is subtracted from; the
// rest, so that what is subtracted is never behind.
func (f *feed) mapNames() []string {
	var totals, minuends, rest []string
	subtracted := make(map[string]bool)
	for _, m := range f.s.Maps {
		subtracted["@"+m.Minus] = true
	}
	for _, name := range sortedKeys(f.maps) {
		switch def := f.maps[name].def; {
		case subtracted[name]:
			rest = append(rest, name)
		case def == nil:
			totals = append(totals, name)
		case def.Minus != "":
			minuends = append(minuends, name)
		default:
			rest = append(rest, name)
		}
	}
	return slices.Concat(totals, minuends, rest)
}

// takeMap takes the values of a map as bpftrace printed them.
func (f *feed) takeMap(message *output.Message) {
	m := f.maps[string(message.Name)]
	if m == nil {
		return
	}
	columns := make([]string, len(f.s.columns))
	err := message.EachEntry(func(key []byte, value output.Value) error {
		// The compiler does not allocate for this lookup: keys that did not
		// change cost next to nothing.
		v, before := value.Int, m.seen[string(key)]
		switch {
		case v == before && !value.IsStats:
			return nil
		case value.IsStats || value.Negative || v < before || v > maxValue:
			f.counters.parseErrors.Add(1)
			return nil
		}
		m.seen[string(key)] = v
		m.sum += v - before
		if m.def != nil && m.def.Minus == "" {
			f.increase(m, string(key), before, v, columns)
		}
		return nil
	})
	if err != nil {
		f.counters.parseErrors.Add(1)
	}
}

// increase passes on what one key's value grew by.
func (f *feed) increase(m *mapFeed, key string, before, v uint64, columns []string) {
	if m.split(key, columns) != nil {
		f.counters.parseErrors.Add(1)
		return
	}
	f.emitValue(m, v-before, columns)
}

// emitValue passes on what a value grew by. That of a histogram's slot is a
// count, which goes to the bucket that the key ends with.
func (f *feed) emitValue(m *mapFeed, by uint64, columns []string) {
	s := Sample{Metric: m.metric}
	if !m.slot {
		s.Add = float64(by) * m.def.Scale
		f.emit(s, columns)
		return
	}
	slot, err := strconv.Atoi(columns[m.at[len(m.at)-1]])
	linear := m.metric.Width != 0
	if err != nil || slot < 0 || !linear && slot > maxSlot || linear && slot > maxLinearSlot {
		f.counters.parseErrors.Add(1)
		return
	}
	s.Schema, s.Index, s.Count = 3, slot-SlotOffset, by
	if linear {
		s.Schema, s.Index = slot/LinearBuckets, slot%LinearBuckets
	}
	f.emit(s, columns)
}

// split puts the parts of a key into their columns. No part can hold a comma:
// scripts never use a user's string as a key.
func (m *mapFeed) split(key string, columns []string) error {
	for i, at := range m.withAt {
		columns[at] = m.with[i]
	}
	if len(m.at) == 0 {
		return nil
	}
	if strings.Count(key, ",") != len(m.at)-1 {
		return output.ErrLine
	}
	for _, at := range m.at {
		part, rest, _ := strings.Cut(key, ",")
		columns[at] = part
		key = rest
	}
	return nil
}

// emit fills in the labels and passes the sample on.
func (f *feed) emit(s Sample, columns []string) {
	f.values = f.values[:0]
	for _, e := range f.labels[s.Metric] {
		f.values = append(f.values, e.value(columns))
	}
	f.pass(s)
}

func (f *feed) pass(s Sample) {
	s.Labels = f.values
	if f.gate.shut() {
		f.gate.take(s)
		return
	}
	if f.own.isTest(s.Labels) {
		return
	}
	if s.Metric == f.d.Metrics[0] {
		f.counters.events.Add(s.Count)
		if s.Metric.Type == "counter" {
			f.counters.events.Add(uint64(s.Add))
		}
	}
	f.sink.Sample(f.d.Name, s)
}

// takeEnd takes note that the answer to a request is complete, and does what
// needs several maps.
func (f *feed) takeEnd() {
	for _, name := range sortedKeys(f.maps) {
		m := f.maps[name]
		if m.def == nil {
			continue
		}
		if m.def.Minus != "" {
			f.subtract(m, f.maps["@"+m.def.Minus])
		}
		if m.def.Total != "" && len(m.seen) >= mapKeys {
			f.spill(m, f.maps["@"+m.def.Total].sum)
		}
	}
	if f.s.Lost != "" {
		lost := f.maps["@"+f.s.Lost]
		f.counters.lost.Add(lost.sum - lost.spare)
		lost.spare = lost.sum
	}
	if f.s.Events == "" {
		return
	}
	if all := f.maps["@"+f.s.Events].sum; all > f.rows+f.hidden {
		if !f.gate.shut() {
			f.counters.notShown.Add(all - f.rows - f.hidden)
		}
		f.hidden = all - f.rows
	}
}

// subtract passes on how far m exceeds less by more than ever before.
func (f *feed) subtract(m, less *mapFeed) {
	columns := make([]string, len(f.s.columns))
	for key, now := range m.seen {
		minus := less.seen[key]
		if now < minus || now-minus <= m.excess[key] || m.split(key, columns) != nil {
			continue
		}
		by := now - minus - m.excess[key]
		m.excess[key] = now - minus
		f.emitValue(m, by, columns)
	}
}

// spill passes on, as other, what a full map did not take.
func (f *feed) spill(m *mapFeed, total uint64) {
	if total <= m.sum+m.spare {
		return
	}
	by := total - m.sum - m.spare
	m.spare += by
	f.values = f.values[:0]
	for range m.metric.Labels {
		f.values = append(f.values, other)
	}
	f.pass(Sample{Metric: m.metric, Add: float64(by) * m.def.Scale})
}

// takeSkipped takes how many events the kernel did not let the scripts see. It
// may be called by any goroutine.
func (f *feed) takeSkipped(n uint64) {
	if len(f.s.Skipped) == 0 {
		f.counters.lost.Add(n)
		return
	}
	for _, name := range f.s.Skipped {
		m := f.d.Metric(name)
		if m == f.d.Metrics[0] {
			f.counters.events.Add(n)
		}
		f.sink.Sample(f.d.Name, Sample{Metric: m, Labels: slices.Repeat([]string{unknown}, len(m.Labels)), Add: float64(n)})
	}
}

// takeRow takes a line that a script printed for the table of events. Counts
// come from maps.
func (f *feed) takeRow(columns []string) {
	f.rows++
	// The other columns are those of map keys.
	for len(columns) < len(f.s.columns) {
		columns = append(columns, "")
	}
	f.keep(f.event(columns))
}

// takeLine takes one event, or one interval's values, of a text tool.
func (f *feed) takeLine(columns []string) {
	values := f.event(columns)
	if f.own.is(f.d, values) {
		return
	}
	for _, m := range f.d.Metrics {
		f.observe(m, values)
	}
	if f.s.Interval != 0 || f.gate.shut() || !f.interesting(values) {
		return
	}
	if !f.limit.allow(f.now()) {
		f.counters.notShown.Add(1)
		return
	}
	f.keep(values)
}

// interesting tells whether an event is large enough for the table.
func (f *feed) interesting(values []string) bool {
	if f.s.Shown.Field == "" {
		return true
	}
	value, err := strconv.ParseFloat(values[f.d.Fields.index(f.s.Shown.Field)], 64)
	return err != nil || value >= f.least
}

// event computes all fields.
func (f *feed) event(columns []string) []string {
	values := make([]string, len(f.fields))
	for i, e := range f.fields {
		if e != nil {
			values[i] = e.value(columns)
		}
	}
	return values
}

func (f *feed) keep(values []string) {
	if f.ring == nil || f.gate.shut() || f.own.isTest(values) {
		return
	}
	for i, value := range values {
		values[i] = strings.Clone(value[:min(len(value), maxShown)])
	}
	f.ring.Add(Event{Time: f.now(), Fields: f.d.Fields, Values: values})
}

func (f *feed) observe(m *Metric, values []string) {
	s := Sample{Metric: m, Add: 1}
	if m.Value != "" {
		text := values[f.d.Fields.index(m.Value)]
		if text == "" {
			return // the event has none
		}
		value, err := strconv.ParseFloat(text, 64)
		if err != nil || !(value >= 0) || math.IsInf(value, 0) {
			f.counters.parseErrors.Add(1)
			return
		}
		s.Add = value
	}
	if m.Type == "histogram" {
		s.Schema, s.Index, s.Count = 3, NativeIndex(s.Add, 3), 1
		if m.Width != 0 {
			s.Schema, s.Index = linearIndex(s.Add, m.Width)
		}
	}
	f.values = f.values[:0]
	for _, label := range m.Labels {
		f.values = append(f.values, values[f.d.Fields.index(label)])
	}
	f.pass(s)
}

// units are those that the tools print, in seconds.
var units = map[string]float64{"secs": 1, "msecs": 1e-3, "usecs": 1e-6, "nsecs": 1e-9}

// takeHistogram takes a log2 histogram of one interval. A slot [2^n, 2^(n+1))
// of the unit goes to schema 0, to the bucket with the upper bound nearest to
// its own; the sum is estimated from the middles of the slots.
func (f *feed) takeHistogram(h output.Histogram) {
	if unit, ok := units[h.Unit]; !ok || unit != f.s.Unit {
		f.counters.parseErrors.Add(1)
		return
	}
	columns := make([]string, len(f.s.columns))
	for i := range columns {
		columns[i] = unknown
	}
	for _, kv := range h.Section {
		// libbpf-tools' biolatency prints "Unknown" for a disk that came later.
		if at := indexOf(f.s.columns, kv.Key); at >= 0 && kv.Value != "Unknown" {
			columns[at] = kv.Value
		}
	}
	for _, slot := range h.Slots {
		if slot.Count == 0 {
			continue
		}
		low, high := float64(slot.Low)*f.s.Unit, (float64(slot.High)+1)*f.s.Unit
		f.emit(Sample{Metric: f.d.Metrics[0], Schema: 0, Index: nearestIndex(high), Count: slot.Count,
			Add: float64(slot.Count) * (low + high) / 2}, columns)
	}
}

// rowLimit bounds how many events of a text tool are kept for looking at: a
// burst of 1000, then 200 a second.
type rowLimit struct {
	tokens float64
	last   time.Time
}

const rowBurst, rowRate = 1000, 200

func newRowLimit() *rowLimit { return &rowLimit{tokens: rowBurst} }

func (l *rowLimit) allow(now time.Time) bool {
	l.tokens = min(rowBurst, l.tokens+rowRate*now.Sub(l.last).Seconds())
	l.last = now
	if l.tokens < 1 {
		return false
	}
	l.tokens--
	return true
}

// ownDoings knows the exporter's processes and port.
type ownDoings struct {
	on   bool
	pid  string
	port string
	kids atomic.Pointer[map[string]bool]
	// tests are the names under which self-tests are made, or nil. One tool
	// may be in its self-test while others serve.
	tests atomic.Pointer[map[string]bool]
}

// addTest makes the doings of a self-test the exporter's own. It is called by
// one goroutine at a time.
func (o *ownDoings) addTest(names ...string) {
	tests := make(map[string]bool)
	if before := o.tests.Load(); before != nil && len(*before) < 1000 {
		maps.Copy(tests, *before)
	}
	for _, name := range names {
		tests[name] = true
	}
	o.tests.Store(&tests)
}

// isTest tells whether one of the values is a name of a self-test. No name is
// short or common enough to be another's by chance.
func (o *ownDoings) isTest(values []string) bool {
	tests := o.tests.Load()
	if tests == nil {
		return false
	}
	for _, value := range values {
		if (*tests)[value] {
			return true
		}
	}
	return false
}

// is tells whether an event is of the exporter's own doing.
func (o *ownDoings) is(d *Definition, values []string) bool {
	if !o.on {
		return false
	}
	for _, name := range d.Exclude.PIDs {
		value := values[d.Fields.index(name)]
		if value == o.pid {
			return true
		}
		if kids := o.kids.Load(); kids != nil && (*kids)[value] {
			return true
		}
	}
	for _, name := range d.Exclude.Ports {
		if o.port != "" && values[d.Fields.index(name)] == o.port {
			return true
		}
	}
	return false
}

// A lineDecoder takes the stdout of a text tool, line by line.
type lineDecoder struct {
	line  func(line []byte, cut bool)
	flush func() // at the end of the output
}

func (f *feed) lineDecoder() lineDecoder {
	switch f.s.Format {
	case "log2":
		return f.log2Decoder()
	case folded:
		return f.foldedDecoder()
	}
	columns, _ := f.s.newDecoder() // checked by the catalogue
	var values []string
	line := func(b []byte, cut bool) {
		if cut && !(f.s.Format == "columns" && strings.HasSuffix(f.s.Columns, "...")) {
			f.counters.parseErrors.Add(1)
			return
		}
		row, err := columns.Decode(b, values[:0])
		if err != nil {
			f.fault(err)
			return
		}
		values = row
		f.takeLine(row)
	}
	return lineDecoder{line: line, flush: func() {}}
}

// idle is how long no line comes before an interval's output is taken as whole:
// the tools print it at once, and nothing says where it ends.
const idle = 200 * time.Millisecond

func (f *feed) log2Decoder() lineDecoder {
	var mu sync.Mutex
	log2 := output.NewLog2(f.takeHistogram)
	timer := time.AfterFunc(time.Hour, func() {
		mu.Lock()
		defer mu.Unlock()
		log2.Idle()
	})
	timer.Stop()
	line := func(b []byte, cut bool) {
		mu.Lock()
		defer mu.Unlock()
		timer.Reset(idle)
		if cut {
			f.counters.parseErrors.Add(1)
			return
		}
		f.fault(log2.Line(b))
	}
	flush := func() {
		mu.Lock()
		defer mu.Unlock()
		timer.Stop()
		f.fault(log2.Flush())
	}
	return lineDecoder{line: line, flush: flush}
}

func (f *feed) foldedDecoder() lineDecoder {
	line := func(b []byte, cut bool) {
		stack, err := output.ParseFolded(b)
		if cut && err == nil {
			err = output.ErrLine
		}
		if err != nil {
			f.fault(err)
			return
		}
		f.takeStack(stack)
	}
	return lineDecoder{line: line, flush: func() {}}
}

// takeStack takes a stack of a text tool, each of which counts.
func (f *feed) takeStack(s output.Stack) {
	for _, m := range f.d.Metrics {
		f.emit(Sample{Metric: m, Add: float64(s.Count)}, s.Keys)
	}
	f.passStack(s)
}

// takeStacks takes the map of stacks that a bpftrace prints when it ends. What
// of it could not be read, or found no room in the map, is lost.
func (f *feed) takeStacks(line []byte) {
	total := f.maps["@"+f.s.Stacks.Total].sum
	var taken uint64
	columns := make([]string, len(f.s.columns))
	err := output.EachStack(line, len(f.s.Stacks.Keys), func(s output.Stack) error {
		if s.Count > total-taken {
			return output.ErrLine // more than there were
		}
		taken += s.Count
		for i, key := range f.s.Stacks.Keys {
			columns[indexOf(f.s.columns, key)] = s.Keys[i]
		}
		s.Keys = columns
		f.passStack(s)
		return nil
	})
	f.fault(err)
	f.counters.lost.Add(total - taken)
}

// passStack replaces the columns in front of a stack by comm and pid, as far as
// the tool has such fields.
func (f *feed) passStack(s output.Stack) {
	if f.stacks == nil {
		return
	}
	columns := s.Keys
	s.Keys = make([]string, 2)
	for i, field := range []string{"comm", "pid"} {
		if at := f.d.Fields.index(field); at >= 0 && f.fields[at] != nil {
			s.Keys[i] = f.fields[at].value(columns)
		}
	}
	f.stacks(s)
}

// fault counts a line that made no sense.
func (f *feed) fault(err error) {
	if err != nil && !errors.Is(err, output.ErrSkip) {
		f.counters.parseErrors.Add(1)
	}
}
