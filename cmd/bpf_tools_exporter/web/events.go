package web

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"bpf_tools_exporter/tools"
)

const (
	defaultEvents = 100
	maxEvents     = 1000
	// maxStreams is how many clients may follow events at once.
	maxStreams = 16
)

// events answers with what a tool saw last, newest first, one JSON object a
// line, or with follow with what it sees from now on.
func (s *server) events(w http.ResponseWriter, r *http.Request) {
	status := s.find(w, r)
	if status == nil {
		return
	}
	name := status.Definition.Name
	if !status.Definition.HasEvents() {
		fail(w, http.StatusNotFound, name+" counts without looking at single events")
		return
	}
	if err := s.access.check(r); err != nil {
		fail(w, http.StatusForbidden, err.Error())
		return
	}
	query, err := parseEventsQuery(r.URL.RawQuery)
	if err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	ring := s.Tools.Ring(name)
	switch {
	case unavailable(*status, ring):
		fail(w, http.StatusServiceUnavailable, fmt.Sprintf("%s is %s: %s", name, status.State, reason(*status)))
	case ring == nil:
		fail(w, http.StatusNotFound, name+" records no events with the source that serves here")
	case query.follow:
		s.follow(w, r, ring)
	default:
		s.recent(w, ring, query.n)
	}
}

// eventsQuery is what a client asks for.
type eventsQuery struct {
	n      int  // how many recent events; 1 to maxEvents
	follow bool // new events instead, however many
}

func parseEventsQuery(raw string) (eventsQuery, error) {
	query := eventsQuery{n: defaultEvents}
	values, err := url.ParseQuery(raw)
	if err != nil {
		return query, fmt.Errorf("query: %w", err)
	}
	for name, all := range values {
		value := all[len(all)-1]
		switch name {
		case "n":
			query.n, err = strconv.Atoi(value)
			if err != nil || query.n < 1 || query.n > maxEvents {
				return query, fmt.Errorf("n=%q: not a number from 1 to %d", shorten(value), maxEvents)
			}
		case "follow":
			query.follow, err = strconv.ParseBool(value)
			if err != nil && value != "" {
				return query, fmt.Errorf("follow=%q: neither true nor false", shorten(value))
			}
			query.follow = query.follow || value == ""
		default:
			return query, fmt.Errorf("unknown parameter %q", shorten(name))
		}
	}
	return query, nil
}

// unavailable tells whether a tool has no events because it does not run. One
// that was given up still has those that it saw before.
func unavailable(status tools.Status, ring *tools.Ring) bool {
	switch status.State {
	case tools.Off:
		return true
	case tools.Down:
		return ring == nil || len(ring.Recent(1)) == 0
	}
	return false
}

func (s *server) recent(w http.ResponseWriter, ring *tools.Ring, n int) {
	linesHeader(w)
	for _, event := range ring.Recent(n) {
		line, err := eventLine(event)
		if err != nil {
			s.Logger.Error("event left out of an answer", "err", err)
			continue
		}
		if _, err := w.Write(line); err != nil {
			return // the client left
		}
	}
}

// follow streams new events until the client leaves or does not accept them
// within writeTimeout, or the server shuts down.
func (s *server) follow(w http.ResponseWriter, r *http.Request, ring *tools.Ring) {
	select {
	case s.streams <- struct{}{}:
		defer func() { <-s.streams }()
	default:
		fail(w, http.StatusServiceUnavailable, fmt.Sprintf("%d clients follow events already", maxStreams))
		return
	}
	linesHeader(w)
	if r.Method == http.MethodHead {
		return
	}
	events, stop := ring.Follow()
	defer stop()
	err := s.stream(w, r, events)
	if err != nil && r.Context().Err() == nil {
		s.Logger.Warn("stream of events broken off", "tool", r.PathValue("name"), "client", r.RemoteAddr, "err", err)
	}
}

func (s *server) stream(w http.ResponseWriter, r *http.Request, events <-chan tools.Event) error {
	client := http.NewResponseController(w)
	send := func(line []byte) error {
		if _, err := w.Write(line); err != nil {
			return err
		}
		if len(events) > 0 {
			return nil // one flush for those that came together
		}
		return client.Flush()
	}
	if err := send(nil); err != nil { // the header, so that the client knows
		return err
	}
	for {
		select {
		case <-r.Context().Done():
			return nil
		case <-s.Done:
			return send(nil) // with time enough for the end of the answer
		case event, ok := <-events:
			if !ok {
				return send(nil)
			}
			line, err := eventLine(event)
			if err != nil {
				return err
			}
			if err := send(line); err != nil {
				return err
			}
		}
	}
}

func linesHeader(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("Cache-Control", "no-store")
}

// eventLine returns the event as a line of JSON that is safe to look at in a
// terminal.
func eventLine(event tools.Event) ([]byte, error) {
	line, err := event.MarshalJSON()
	if err != nil {
		return nil, err
	}
	return []byte(visible(string(line)) + "\n"), nil
}
