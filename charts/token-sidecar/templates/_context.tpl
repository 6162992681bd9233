{{/*
What the other templates need, as JSON. It is found from the scope of the chart itself, of a chart that depends on it under any
alias, or of one that depends on such a chart. A chart that has it twice says which one it means: (list . "alias").
*/}}
{{- define "token-sidecar.context" -}}
{{- $scope := . -}}
{{- $wanted := "" -}}
{{- if kindIs "slice" . -}}
{{- $scope = first . -}}
{{- $wanted = last . -}}
{{- end -}}
{{- $base := ($scope.Template | default dict).BasePath | default "" -}}
{{- $path := trimSuffix "/templates" $base | splitList "/charts/" | rest -}}
{{- $found := include "token-sidecar.find" (dict "scope" $scope "path" (list ".")) | trim | splitList "\n" | compact -}}
{{- if $wanted -}}
{{- $all := $found -}}
{{- $found = list -}}
{{- range $all -}}{{- if eq (base .) $wanted -}}{{- $found = append $found . -}}{{- end -}}{{- end -}}
{{- end -}}
{{- if not $found -}}
{{- fail (printf "token-sidecar: chart %s has no dependency %s, or it is switched off; add it to dependencies in Chart.yaml" $scope.Chart.Name ($wanted | default "token-sidecar")) -}}
{{- end -}}
{{- if gt (len $found) 1 -}}
{{- fail (printf "token-sidecar: chart %s depends on it more than once; say which one is meant, as in: include \"token-sidecar.container\" (list . %q)" $scope.Chart.Name (base (first $found))) -}}
{{- end -}}
{{- $chart := $scope -}}
{{- range splitList "/" (first $found) -}}
{{- if ne . "." -}}
{{- $chart = index $chart.Subcharts . -}}
{{- $path = append $path . -}}
{{- end -}}
{{- end -}}
{{- $values := mustMerge ($chart.Values | toJson | fromJson) (include "token-sidecar.shape" . | fromYaml) -}}
{{- $name := $values.nameOverride | default "token-sidecar" -}}
{{- $parts := append (initial ($path | default (list ""))) ($values.nameOverride | default (last ($path | default (list "token-sidecar")))) -}}
{{- $fullname := $values.fullnameOverride | default (concat (list $scope.Release.Name) $parts | join "-") | trunc 63 | trimSuffix "-" -}}
{{- $version := $chart.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" -}}
{{- dict "values" $values "name" $name "fullname" $fullname "namespace" $scope.Release.Namespace "kubernetes" $scope.Capabilities.KubeVersion.Version
  "chart" (dict "name" $chart.Chart.Name "version" $version "appVersion" $chart.Chart.AppVersion)
  "release" (dict "name" $scope.Release.Name "service" $scope.Release.Service)
  "settings" ($chart.Files.Get "files/settings.yaml") | toJson -}}
{{- end -}}

{{/* The paths by which a scope leads to this chart, one a line: "." is the scope itself. */}}
{{- define "token-sidecar.find" -}}
{{- if index (.scope.Chart.Annotations | default dict) "token-sidecar/chart" }}
{{ join "/" .path }}
{{- else }}
{{- range $name, $sub := .scope.Subcharts }}
{{- include "token-sidecar.find" (dict "scope" $sub "path" (append $.path $name)) }}
{{- end }}
{{- end }}
{{- end -}}

{{/* The maps among the values, for those that were set to null. */}}
{{- define "token-sidecar.shape" -}}
{global: {}, image: {}, commonLabels: {}, humanapi: {csi: {}, ca: {}}, redis: {ca: {}}, callerToken: {}, encryptionKeys: {}, audit: {},
 ports: {}, settings: {}, resources: {}, securityContext: {}, probes: {}, injection: {namespaceSelector: {}, podLabels: {}},
 networkPolicy: {podSelector: {}}, podMonitor: {labels: {}, selector: {}, namespaceSelector: {}}, prometheusRule: {labels: {}},
 dashboard: {labels: {}}}
{{- end -}}

{{/* The labels of the chart's objects, and of one of them beside (list . labels). */}}
{{- define "token-sidecar.labels" -}}
{{- $c := include "token-sidecar.context" (first .) | fromJson -}}
{{- $own := dict "app.kubernetes.io/name" "token-sidecar" "app.kubernetes.io/instance" $c.release.name
  "app.kubernetes.io/managed-by" $c.release.service "app.kubernetes.io/version" ($c.chart.appVersion | trunc 63)
  "helm.sh/chart" (printf "%s-%s" $c.chart.name $c.chart.version | trunc 63) -}}
{{- mergeOverwrite (deepCopy $c.values.commonLabels) (last .) $own | toYaml -}}
{{- end -}}

{{- define "token-sidecar.fullname" -}}
{{- (include "token-sidecar.context" . | fromJson).fullname -}}
{{- end -}}

{{- define "token-sidecar.image" -}}
{{- $image := .values.image -}}
{{- with .values.global.imageRegistry | default $image.registry -}}{{ . }}/{{- end -}}
{{- $image.repository -}}
{{- if $image.digest -}}@{{ $image.digest }}{{- else -}}:{{ $image.tag | default .chart.appVersion }}{{- end -}}
{{- end -}}

{{/* Items of a pod's imagePullSecrets. */}}
{{- define "token-sidecar.imagePullSecrets" -}}
{{- $c := include "token-sidecar.context" . | fromJson -}}
{{- $names := list -}}
{{- range concat ($c.values.global.imagePullSecrets | default list) ($c.values.image.pullSecrets | default list) -}}
{{- $names = append $names (ternary (get (ternary . dict (kindIs "map" .)) "name") . (kindIs "map" .)) -}}
{{- end -}}
{{- range uniq $names }}
- {name: {{ . | quote }}}
{{- end -}}
{{- end -}}
