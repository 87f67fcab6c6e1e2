package main

// What Grafana reads, as far as these dashboards use it. The order of the keys
// is that of the fields.

type object = map[string]any

type dashboard struct {
	UID           string   `json:"uid"`
	Title         string   `json:"title"`
	Description   string   `json:"description"`
	Tags          []string `json:"tags"`
	SchemaVersion int      `json:"schemaVersion"`
	Version       int      `json:"version"`
	Editable      bool     `json:"editable"`
	GraphTooltip  int      `json:"graphTooltip"`
	Timezone      string   `json:"timezone"`
	Refresh       string   `json:"refresh"`
	Time          object   `json:"time"`
	Links         []object `json:"links"`
	Templating    struct {
		List []object `json:"list"`
	} `json:"templating"`
	Annotations struct {
		List []object `json:"list"`
	} `json:"annotations"`
	Panels []*panel `json:"panels"`
}

type panel struct {
	ID              int         `json:"id"`
	Type            string      `json:"type"`
	Title           string      `json:"title"`
	Description     string      `json:"description,omitempty"`
	GridPos         gridPos     `json:"gridPos"`
	Datasource      *datasource `json:"datasource,omitempty"`
	MaxDataPoints   int         `json:"maxDataPoints,omitempty"`
	Targets         []*target   `json:"targets,omitempty"`
	Transformations []object    `json:"transformations,omitempty"`
	FieldConfig     object      `json:"fieldConfig,omitempty"`
	Options         object      `json:"options,omitempty"`
	Links           []object    `json:"links,omitempty"`
	Collapsed       *bool       `json:"collapsed,omitempty"` // of a row
	Panels          []*panel    `json:"panels,omitempty"`    // in a collapsed row
}

type gridPos struct {
	H int `json:"h"`
	W int `json:"w"`
	X int `json:"x"`
	Y int `json:"y"`
}

type datasource struct {
	Type string `json:"type"`
	UID  string `json:"uid"`
}

type target struct {
	RefID        string      `json:"refId"`
	Datasource   *datasource `json:"datasource"`
	EditorMode   string      `json:"editorMode,omitempty"`
	Expr         string      `json:"expr,omitempty"`
	Format       string      `json:"format,omitempty"`
	Instant      bool        `json:"instant"`
	Range        bool        `json:"range"`
	LegendFormat string      `json:"legendFormat,omitempty"`
	MaxLines     int         `json:"maxLines,omitempty"` // of Loki

	// Of Pyroscope.
	QueryType     string    `json:"queryType,omitempty"`
	ProfileTypeID string    `json:"profileTypeId,omitempty"`
	LabelSelector string    `json:"labelSelector,omitempty"`
	GroupBy       *[]string `json:"groupBy,omitempty"`
}

var (
	prometheus = &datasource{"prometheus", "${datasource}"}
	loki       = &datasource{"loki", "${loki}"}
	pyroscope  = &datasource{"grafana-pyroscope-datasource", "${pyroscope}"}
)
