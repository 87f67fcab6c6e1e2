// Grafana's types of what a dashboard file has. The file itself leaves panel
// options and queries open, so those are named here by panel and data source.
import type { Dashboard, DataTransformerConfig, Panel as AnyPanel, RowPanel, VariableModel } from '@grafana/schema/dist/esm/raw/dashboard/x/dashboard_types.gen.d.ts';
import type { Options as Heatmap } from '@grafana/schema/dist/esm/raw/composable/heatmap/panelcfg/x/HeatmapPanelCfg_types.gen.d.ts';
import type { Options as NodeGraph } from '@grafana/schema/dist/esm/raw/composable/nodegraph/panelcfg/x/NodeGraphPanelCfg_types.gen.d.ts';
import type { Options as Table } from '@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen.d.ts';
import type { Options as TimeSeries, FieldConfig as TimeSeriesField } from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen.d.ts';
import type { LokiDataQuery } from '@grafana/schema/dist/esm/raw/composable/loki/dataquery/x/LokiDataQuery_types.gen.d.ts';
import type { GrafanaPyroscopeDataQuery } from '@grafana/schema/dist/esm/raw/composable/grafanapyroscope/dataquery/x/GrafanaPyroscopeDataQuery_types.gen.d.ts';
import type { DataQuery } from '@grafana/schema';

// JSON has the value of an enumeration where TypeScript wants its member.
type JSONOf<T> = T extends string ? `${T}` : T extends number | boolean | null | undefined ? T : T extends Array<infer U> ? JSONOf<U>[] : T extends object ? { [K in keyof T]: JSONOf<T[K]> } : T;

// The query of a Prometheus data source, which @grafana/schema has no more.
interface PrometheusQuery extends DataQuery {
  editorMode?: 'builder' | 'code';
  expr: string;
  format?: 'time_series' | 'table' | 'heatmap';
  instant?: boolean;
  range?: boolean;
  legendFormat?: string;
}

type From<Kind extends string> = { datasource: { type: Kind; uid: string } };
type Query = JSONOf<(PrometheusQuery & From<'prometheus'>) | (LokiDataQuery & From<'loki'>) | (GrafanaPyroscopeDataQuery & From<'grafana-pyroscope-datasource'> & { instant?: boolean; range?: boolean })>;

type Of<Type extends string, Options, Custom = object> = Omit<JSONOf<AnyPanel>, 'type' | 'options' | 'targets' | 'transformations' | 'fieldConfig'> & {
  type: Type;
  options: JSONOf<Options>;
  targets: Query[];
  transformations?: JSONOf<DataTransformerConfig>[];
  fieldConfig: Omit<JSONOf<NonNullable<AnyPanel['fieldConfig']>>, 'defaults'> & { defaults: Omit<JSONOf<NonNullable<AnyPanel['fieldConfig']>['defaults']>, 'custom'> & { custom?: JSONOf<Custom> } };
};

type Panel =
  | Of<'timeseries', Omit<TimeSeries, 'timezone'>, TimeSeriesField>
  | Of<'heatmap', Heatmap>
  | Of<'table', Omit<Table, 'frameIndex'>>
  | Of<'nodeGraph', NodeGraph>
  | Omit<Of<'flamegraph', object>, 'options'>;

type Row = Omit<JSONOf<RowPanel>, 'panels'> & { panels?: Panel[] };

export type Checked = Omit<JSONOf<Dashboard>, 'panels' | 'templating'> & {
  panels: (Panel | Row)[];
  templating: { list: (JSONOf<VariableModel> & { qryType?: never })[] };
};
