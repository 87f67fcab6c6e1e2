package main

import (
	"encoding/json"
	"strings"
)

// The uids are part of links that people keep: they never change.
const (
	toolsUID = "bpf-tools"
	hostUID  = "bpf-tools-host"
	fleetUID = "bpf-tools-fleet"
	selfUID  = "bpf-tools-self"
)

const tag = "bpf_tools_exporter"

// All are the dashboards by file name.
func all() map[string]*dashboard {
	return map[string]*dashboard{
		"bpf-tools.json": build(toolsUID, "BPF tools", "Ten BPF tools, each with the picture that suits it.", many,
			row("Programs and files", false), execsnoopTable("instance"), opensnoopTable("instance"),
			row("File systems and disks", false), ext4slowerTable("instance"), biolatencyHeatmap(), biosnoopTable("instance"), biosnoopOffsets(), cachestatLines().size(24, 8),
			row("Network", false), tcplifeTable("instance").size(12, 12), tcplifeGraph(), tcpretransTable("instance").size(24, 8),
			row("CPUs", false), runqlatHeatmap(), profileTable("instance"),
			row("Flame graph (needs a Pyroscope datasource)", true, profileFlameGraph()),
			row("Single events (needs a Loki datasource with the event log)", true, singleEvents()...),
		),
		"one-host.json": build(hostUID, "BPF tools: one host", "Everything about one host: the ten tools, their single events and what they cost.", one,
			row("Programs and files", false), execsnoopTable("instance"), execRates(), opensnoopTable("instance"), openRates(),
			row("File systems and disks", false), biolatencyHeatmap(), biolatencyQuantiles(), biosnoopTable("instance"), biosnoopOffsets(), ext4slowerTable("instance"), ext4slowerHeatmap(), biosnoopQuantiles().size(24, 8), cachestatLines().size(24, 8),
			row("Network", false), tcplifeTable("instance").size(12, 12), tcplifeGraph(), tcplifeHeatmap(), tcpretransRates(), tcpretransTable("instance").size(24, 8),
			row("CPUs", false), runqlatHeatmap(), profileTable("instance"),
			row("Flame graph (needs a Pyroscope datasource)", true, profileFlameGraph()),
			row("Single events (needs a Loki datasource with the event log)", true, singleEvents()...),
			row("The tools themselves", false), toolsTable(), cpuByMode(), memoryByTool(), events(), losses(),
		),
		"fleet.json": build(fleetUID, "BPF tools: fleet", "Hosts side by side: who executes, retransmits, waits for disks, misses the cache, and who talks to whom.", many,
			row("Programs", false), execStorms(), execStormTable().size(12, 8),
			row("Network", false), fleetRetransmits(), fleetPeers().size(12, 8), fleetGraph(), fleetTraffic().size(24, 8),
			row("Disks and memory", false), fleetDisks(), fleetCache(),
			row("Cost", false), cpuByHost().size(24, 8),
		),
		"tools-themselves.json": build(selfUID, "BPF tools: the tools themselves", "Which sources serve, what each tool costs, what it loses, and whether its self-test passed.", many,
			row("What runs", false), toolsTable(), selftestTable(), restarts().size(8, 9), runs().size(8, 9),
			row("Cost", false), cpuByMode(), cpuByHost(), memoryByTool(), exporterMemory(),
			row("What is counted and what is not", false), events(), losses(), overflow(), lastOutput(), scrapes().size(24, 8),
		),
	}
}

// Whether a dashboard shows many hosts at once or one.
const (
	many = true
	one  = false
)

func build(uid, title, description string, manyHosts bool, panels ...*panel) *dashboard {
	d := &dashboard{
		UID: uid, Title: title, Description: description, Tags: []string{tag, "bpf"}, SchemaVersion: 39, Version: 1, Editable: true, GraphTooltip: 1,
		Timezone: "browser", Refresh: "30s", Time: object{"from": "now-1h", "to": "now"},
		Links: []object{{"type": "dashboards", "title": "BPF tools", "tags": []string{tag}, "asDropdown": true, "includeVars": true, "keepTime": true, "targetBlank": false, "icon": "external link", "tooltip": "", "url": ""}},
	}
	d.Annotations.List = []object{{"builtIn": 1, "datasource": object{"type": "grafana", "uid": "-- Grafana --"}, "enable": true, "hide": true, "iconColor": "rgba(0, 211, 255, 1)", "name": "Annotations & Alerts", "type": "dashboard"}}
	d.Templating.List = variables(panels, manyHosts)
	d.Panels = arrange(panels)
	return d
}

func variables(panels []*panel, manyHosts bool) []object {
	list := []object{
		datasourceVariable("datasource", "Prometheus", "prometheus"),
		queryVariable("job", "Job", "label_values(bpf_tool_up, job)", true),
		queryVariable("instance", "Host", `label_values(bpf_tool_up{job=~"$job"}, instance)`, manyHosts),
		{"type": "custom", "name": "histograms", "label": "Histograms", "hide": 0, "skipUrlSync": false, "multi": false, "includeAll": false,
			"description": "Native where this Prometheus scrapes native histograms, else classic.",
			"query":       "native : (),classic : _bucket", "current": object{"selected": true, "text": "native", "value": "()"},
			"options": []object{{"selected": true, "text": "native", "value": "()"}, {"selected": false, "text": "classic", "value": "_bucket"}}},
	}
	text := marshalled(panels)
	if strings.Contains(text, "$disk") {
		list = append(list, queryVariable("disk", "Disk", `label_values(bpf_biosnoop_offset_bytes_count{job=~"$job", instance=~"$instance"}, device)`, true))
	}
	for _, optional := range []struct {
		source      *datasource
		name, label string
	}{{loki, "loki", "Loki"}, {pyroscope, "pyroscope", "Pyroscope"}} {
		if strings.Contains(text, optional.source.UID) {
			list = append(list, datasourceVariable(optional.name, optional.label, optional.source.Type))
		}
	}
	return list
}

func datasourceVariable(name, label, kind string) object {
	return object{"type": "datasource", "name": name, "label": label, "query": kind, "regex": "", "hide": 0, "refresh": 1, "skipUrlSync": false,
		"multi": false, "includeAll": false, "options": []object{}}
}

func queryVariable(name, label, query string, many bool) object {
	v := object{"type": "query", "name": name, "label": label, "datasource": prometheus, "query": object{"query": query, "refId": name, "qryType": 1},
		"regex": "", "refresh": 2, "sort": 1, "hide": 0, "skipUrlSync": false, "multi": many, "includeAll": many, "options": []object{}}
	if many {
		v["allValue"], v["current"] = ".+", object{"selected": true, "text": []string{"All"}, "value": []string{"$__all"}}
	}
	return v
}

// arrange numbers the panels and puts them from left to right and from top to
// bottom.
func arrange(panels []*panel) []*panel {
	id := 0
	var place func(panels []*panel, y int) int
	place = func(panels []*panel, y int) int {
		x, height := 0, 0
		for _, p := range panels {
			id++
			p.ID = id
			if p.Type == "row" {
				p.GridPos.W, p.GridPos.H = 24, 1
			}
			if x+p.GridPos.W > 24 {
				x, y, height = 0, y+height, 0
			}
			p.GridPos.X, p.GridPos.Y = x, y
			x, height = x+p.GridPos.W, max(height, p.GridPos.H)
			place(p.Panels, y+1)
		}
		return y + height
	}
	place(panels, 0)
	return panels
}

func marshalled(panels []*panel) string {
	text, err := json.Marshal(panels)
	if err != nil {
		panic(err) // there is nothing in panels that JSON has not
	}
	return string(text)
}
