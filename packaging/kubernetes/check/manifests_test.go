// Package check renders the kustomize base and the Helm chart as kubectl and
// helm would, and decodes what comes out into the API's own types: a field that
// they do not know is an error.
package check

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// decode returns the objects of some YAML documents, by kind.
func decode(t *testing.T, documents string) map[string]any {
	t.Helper()
	objects := make(map[string]any)
	for _, document := range strings.Split(documents, "\n---\n") {
		var head struct{ APIVersion, Kind string }
		if err := yaml.Unmarshal([]byte(document), &head); err != nil {
			t.Fatalf("%v in\n%s", err, document)
		}
		if head.Kind == "" {
			continue
		}
		object := map[string]any{
			"v1/Namespace": new(core.Namespace), "v1/ServiceAccount": new(core.ServiceAccount), "v1/Secret": new(core.Secret),
			"apps/v1/DaemonSet": new(apps.DaemonSet), "monitoring.coreos.com/v1/PodMonitor": new(monitoring.PodMonitor),
		}[head.APIVersion+"/"+head.Kind]
		if object == nil {
			t.Fatalf("unknown kind %s %s", head.APIVersion, head.Kind)
		}
		if err := yaml.UnmarshalStrict([]byte(document), object); err != nil {
			t.Errorf("%s: %v", head.Kind, err)
		}
		objects[head.Kind] = object
	}
	return objects
}

// expectDaemonSet checks what the API's types do not.
func expectDaemonSet(t *testing.T, objects map[string]any) *apps.DaemonSet {
	t.Helper()
	set, ok := objects["DaemonSet"].(*apps.DaemonSet)
	if !ok {
		t.Fatal("no DaemonSet")
	}
	for key, value := range set.Spec.Selector.MatchLabels {
		if set.Spec.Template.Labels[key] != value {
			t.Errorf("the selector asks for %s=%s, the pods have %q", key, value, set.Spec.Template.Labels[key])
		}
	}
	pod := set.Spec.Template.Spec
	if account, ok := objects["ServiceAccount"].(*core.ServiceAccount); !ok || account.Name != pod.ServiceAccountName {
		t.Errorf("no service account %s", pod.ServiceAccountName)
	}
	container := pod.Containers[0]
	var volumes, mounts []string
	for _, v := range pod.Volumes {
		volumes = append(volumes, v.Name)
	}
	for _, m := range container.VolumeMounts {
		mounts = append(mounts, m.Name)
	}
	slices.Sort(volumes)
	slices.Sort(mounts)
	if !slices.Equal(volumes, mounts) {
		t.Errorf("volumes %v, mounts %v", volumes, mounts)
	}
	for _, probe := range []*core.Probe{container.StartupProbe, container.LivenessProbe, container.ReadinessProbe} {
		if probe == nil || (probe.HTTPGet == nil) == (probe.TCPSocket == nil) {
			t.Errorf("probe %v: want an HTTP or a TCP one", probe)
		}
	}
	if monitor, ok := objects["PodMonitor"].(*monitoring.PodMonitor); ok {
		for key, value := range monitor.Spec.Selector.MatchLabels {
			if set.Spec.Template.Labels[key] != value {
				t.Errorf("the PodMonitor asks for %s=%s, the pods have %q", key, value, set.Spec.Template.Labels[key])
			}
		}
		if port := *monitor.Spec.PodMetricsEndpoints[0].Port; port != container.Ports[0].Name {
			t.Errorf("the PodMonitor scrapes port %s, the container has %s", port, container.Ports[0].Name)
		}
	}
	return set
}

func TestKustomize(t *testing.T) {
	resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), "../base")
	if err != nil {
		t.Fatal(err)
	}
	documents, err := resources.AsYaml()
	if err != nil {
		t.Fatal(err)
	}
	objects := decode(t, string(documents))
	set := expectDaemonSet(t, objects)
	if image := set.Spec.Template.Spec.Containers[0].Image; image != "bpf-tools-exporter:0.1.0" {
		t.Errorf("image %s", image)
	}
	for _, kind := range []string{"Namespace", "PodMonitor"} {
		if objects[kind] == nil {
			t.Errorf("no %s", kind)
		}
	}
}

func TestChart(t *testing.T) {
	for _, c := range []struct{ name, values, image, kinds string }{
		{"defaults", "", "bpf-tools-exporter:0.1.0", "DaemonSet ServiceAccount"},
		{"all", `
image: {repository: example.org/exporter, tag: v1}
args: [--collector.execsnoop.failed]
webConfig: {basic_auth_users: {prometheus: hash}}
podMonitor: {enabled: true, labels: {release: main}}
priorityClassName: system-node-critical
imagePullSecrets: [{name: registry}]
affinity: {nodeAffinity: {}}
nodeSelector: {disk: ssd}
podAnnotations: {a: b}
`, "example.org/exporter:v1", "DaemonSet PodMonitor Secret ServiceAccount"},
		{"no headers", "kernelHeaders: false", "bpf-tools-exporter:0.1.0", "DaemonSet ServiceAccount"},
	} {
		t.Run(c.name, func(t *testing.T) {
			objects := decode(t, render(t, c.values))
			set := expectDaemonSet(t, objects)
			if image := set.Spec.Template.Spec.Containers[0].Image; image != c.image {
				t.Errorf("image %s, want %s", image, c.image)
			}
			var kinds []string
			for kind := range objects {
				kinds = append(kinds, kind)
			}
			slices.Sort(kinds)
			if got := strings.Join(kinds, " "); got != c.kinds {
				t.Errorf("kinds %s, want %s", got, c.kinds)
			}
		})
	}
}

// render is "helm template".
func render(t *testing.T, values string) string {
	t.Helper()
	chart, err := loader.Load("../chart")
	if err != nil {
		t.Fatal(err)
	}
	if err := chart.Validate(); err != nil {
		t.Fatal(err)
	}
	given, err := chartutil.ReadValues([]byte(values))
	if err != nil {
		t.Fatal(err)
	}
	all, err := chartutil.ToRenderValues(chart, given, chartutil.ReleaseOptions{Name: "bpf", Namespace: "monitoring", IsInstall: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	files, err := engine.Engine{Strict: true}.Render(chart, all)
	if err != nil {
		t.Fatal(err)
	}
	var documents []string
	for name, text := range files {
		if strings.HasSuffix(name, ".yaml") {
			documents = append(documents, fmt.Sprintf("# %s\n%s", name, text))
		}
	}
	return strings.Join(documents, "\n---\n")
}
