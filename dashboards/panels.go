package main

import (
	"fmt"
	"strings"
)

// The kinds of panels. Each is half as wide as the dashboard unless it says
// otherwise, and 8 units high.

func timeseries(title, unit, description string, lines ...*target) *panel {
	for i, line := range lines {
		line.RefID, line.Datasource, line.EditorMode, line.Range = string(rune('A'+i)), prometheus, "code", true
	}
	return &panel{
		Type: "timeseries", Title: title, Description: description, GridPos: gridPos{H: 8, W: 12}, Datasource: prometheus, Targets: lines,
		FieldConfig: object{
			"defaults": object{
				"unit": unit, "min": 0, "color": object{"mode": "palette-classic"},
				"custom": object{"drawStyle": "line", "lineWidth": 1, "fillOpacity": 10, "showPoints": "auto", "spanNulls": false},
			},
			"overrides": []object{},
		},
		Options: object{
			"legend":  object{"displayMode": "table", "placement": "bottom", "showLegend": true, "calcs": []string{"lastNotNull", "max"}},
			"tooltip": object{"mode": "multi", "sort": "desc"},
		},
	}
}

func line(expr, legend string) *target { return &target{Expr: expr, LegendFormat: legend} }

// second gives lines whose legend matches an axis of their own, which ends at
// max unless that is 0.
func (p *panel) second(legend, unit string, max float64) *panel {
	properties := []object{{"id": "unit", "value": unit}, {"id": "custom.axisPlacement", "value": "right"},
		{"id": "custom.lineWidth", "value": 2}, {"id": "custom.fillOpacity", "value": 0}}
	if max > 0 {
		properties = append(properties, object{"id": "max", "value": max})
	}
	p.override("byRegexp", legend, properties...)
	return p
}

func heatmap(title, unit, description, expr string) *panel {
	return &panel{
		Type: "heatmap", Title: title, Description: description, GridPos: gridPos{H: 9, W: 12}, Datasource: prometheus, MaxDataPoints: 120,
		Targets:     []*target{{RefID: "A", Datasource: prometheus, EditorMode: "code", Expr: expr, Format: "heatmap", Range: true, LegendFormat: "{{le}}"}},
		FieldConfig: object{"defaults": object{"custom": object{"hideFrom": object{"legend": false, "tooltip": false, "viz": false}, "scaleDistribution": object{"type": "linear"}}}, "overrides": []object{}},
		Options: object{
			"calculate": false, "cellGap": 1, "cellValues": object{"unit": "ops"},
			"color":     object{"mode": "scheme", "scheme": "Oranges", "scale": "exponential", "exponent": 0.5, "steps": 64, "reverse": false, "fill": "dark-orange"},
			"exemplars": object{"color": "rgba(255,0,255,0.7)"}, "filterValues": object{"le": 1e-9}, "legend": object{"show": true}, "rowsFrame": object{"layout": "auto"},
			"showValue": "never", "tooltip": object{"mode": "single", "showColorScale": true, "yHistogram": true},
			"yAxis": object{"axisPlacement": "left", "unit": unit, "reverse": false},
		},
	}
}

// A column of a table of what an instant query answers.
type column struct{ name, unit, expr string }

// table has a row for each combination of the labels, the greatest first
// column at the top. With top it has no more rows than that.
func table(title, description, labels string, top int, columns ...column) *panel {
	p := &panel{
		Type: "table", Title: title, Description: description, GridPos: gridPos{H: 9, W: 12}, Datasource: prometheus,
		FieldConfig: object{"defaults": object{"custom": object{"align": "auto", "cellOptions": object{"type": "auto"}, "filterable": true}}, "overrides": []object{}},
		Options:     object{"cellHeight": "sm", "showHeader": true, "footer": object{"show": false, "reducer": []string{"sum"}, "countRows": false}, "sortBy": []object{{"displayName": columns[0].name, "desc": true}}},
	}
	order, names := object{}, object{}
	for i, label := range strings.Split(labels, ", ") {
		order[label] = i
	}
	for i, c := range columns {
		expr := c.expr
		if top > 0 {
			expr = topk(top, columns[0].expr) + " > 0"
			if i > 0 {
				expr = fmt.Sprintf("%s and on (%s) %s > 0", c.expr, labels, topk(top, columns[0].expr))
			}
		}
		ref := string(rune('A' + i))
		p.Targets = append(p.Targets, &target{RefID: ref, Datasource: prometheus, EditorMode: "code", Expr: expr, Format: "table", Instant: true})
		value := "Value"
		if len(columns) > 1 {
			value += " #" + ref
		}
		order[value], names[value] = 100+i, c.name
		p.override("byName", c.name, object{"id": "unit", "value": c.unit})
	}
	if len(columns) > 1 {
		p.Transformations = append(p.Transformations, object{"id": "merge", "options": object{}})
	}
	p.Transformations = append(p.Transformations, object{"id": "organize", "options": object{
		"excludeByName": object{"Time": true, "__name__": true}, "indexByName": order, "renameByName": names}})
	p.override("byName", "instance", object{"id": "links", "value": []object{{
		"title": "This host", "url": "/d/" + hostUID + "?${__url_time_range}&${datasource:queryparam}&${job:queryparam}&var-instance=${__value.text}"}}})
	return p
}

func (p *panel) override(matcher, options string, properties ...object) {
	all := p.FieldConfig["overrides"].([]object)
	p.FieldConfig["overrides"] = append(all, object{"matcher": object{"id": matcher, "options": options}, "properties": properties})
}

// bar draws a column's cells as bars.
func (p *panel) bar(name string) *panel {
	p.override("byName", name, object{"id": "custom.cellOptions", "value": object{"type": "gauge", "mode": "basic", "valueDisplayMode": "text"}},
		object{"id": "color", "value": object{"mode": "continuous-BlPu"}}, object{"id": "min", "value": 0})
	return p
}

// words shows the numbers of a column as words.
func (p *panel) words(name string, words ...string) *panel {
	colors := []string{"red", "green"}
	options := object{}
	for i, word := range words {
		options[fmt.Sprint(i)] = object{"index": i, "text": word, "color": colors[i]}
	}
	p.override("byName", name, object{"id": "mappings", "value": []object{{"type": "value", "options": options}}},
		object{"id": "custom.cellOptions", "value": object{"type": "color-text"}})
	return p
}

// nodeGraph draws edges, which Grafana knows by their columns' names, and makes
// the nodes of their ends.
func nodeGraph(title, description, edges string) *panel {
	return &panel{
		Type: "nodeGraph", Title: title, Description: description, GridPos: gridPos{H: 12, W: 12}, Datasource: prometheus,
		Targets: []*target{{RefID: "edges", Datasource: prometheus, EditorMode: "code", Expr: edges, Format: "table", Instant: true}},
		Transformations: []object{{"id": "organize", "options": object{
			"excludeByName": object{"Time": true}, "renameByName": object{"Value": "mainstat"}, "indexByName": object{}}}},
		FieldConfig: object{"defaults": object{"unit": "short", "decimals": 0}, "overrides": []object{}},
		Options:     object{"nodes": object{"mainStatUnit": "short"}, "edges": object{"mainStatUnit": "short"}, "zoomMode": "cooperative"},
	}
}

func flameGraph(title, description string) *panel {
	return &panel{
		Type: "flamegraph", Title: title, Description: description, GridPos: gridPos{H: 14, W: 24}, Datasource: pyroscope,
		Targets: []*target{{RefID: "A", Datasource: pyroscope, QueryType: "profile",
			ProfileTypeID: "process_cpu:cpu:nanoseconds:cpu:nanoseconds", LabelSelector: `{service_name="bpf_tools_exporter", instance=~"$instance"}`, GroupBy: &[]string{}}},
		FieldConfig: object{"defaults": object{}, "overrides": []object{}},
		Options:     object{},
	}
}

// logTable shows lines of the event log, with the fields that are named.
func logTable(tool, description, docs string, fields ...string) *panel {
	order, names := object{"Time": 0}, object{}
	var extracted, kept []string
	for i, field := range fields {
		extracted = append(extracted, fmt.Sprintf("%s=%q", field, "fields."+field))
		kept = append(kept, field)
		order[field] = i + 1
	}
	return &panel{
		Type: "table", Title: tool + ": single events", Description: read(description, docs), GridPos: gridPos{H: 8, W: 12}, Datasource: loki,
		Targets: []*target{{RefID: "A", Datasource: loki, EditorMode: "code", QueryType: "range", Range: true, MaxLines: 500,
			Expr: fmt.Sprintf(`{job="bpf_tools_events", instance=~"$instance"} |= "\"tool\":\"%s\"" | json tool="tool", host="host", %s | tool="%s"`, tool, strings.Join(extracted, ", "), tool)}},
		Transformations: []object{
			{"id": "extractFields", "options": object{"source": "labels", "format": "auto", "replace": false, "keepTime": true}},
			{"id": "filterFieldsByName", "options": object{"include": object{"names": append([]string{"Time", "host"}, kept...)}}},
			{"id": "organize", "options": object{"excludeByName": object{}, "indexByName": order, "renameByName": names}},
		},
		FieldConfig: object{"defaults": object{"custom": object{"align": "auto", "cellOptions": object{"type": "auto"}, "filterable": true}}, "overrides": []object{}},
		Options:     object{"cellHeight": "sm", "showHeader": true, "sortBy": []object{{"displayName": "Time", "desc": true}}},
	}
}

// row is a heading. The panels of one that is closed do not load until it is
// opened.
func row(title string, closed bool, panels ...*panel) *panel {
	return &panel{Type: "row", Title: title, Collapsed: &closed, Panels: panels}
}

func (p *panel) size(w, h int) *panel {
	p.GridPos.W, p.GridPos.H = w, h
	return p
}

// link adds a link to a page of the exporter.
func (p *panel) link(title, url string) *panel {
	p.Links = append(p.Links, object{"type": "link", "title": title, "url": url, "targetBlank": true,
		"tags": []string{}, "asDropdown": false, "includeVars": false, "keepTime": false, "icon": "", "tooltip": ""})
	return p
}

// read says how to read a picture, and where the tool is described.
func read(how, docs string) string { return how + "\n\n[Documentation](" + docs + ")" }
