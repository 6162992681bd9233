{{/*
A value as a CEL literal. The values of a map have one type there; dyn() lets them differ, as those of JSON do. A map with the one
key $cel stands for the expression that it holds.
*/}}
{{- define "token-sidecar.cel" -}}
{{- if and (kindIs "map" .) (hasKey . "$cel") -}}
{{ get . "$cel" }}
{{- else if kindIs "map" . -}}
{ {{- $first := true -}}
{{- range $key, $value := . -}}
{{- if not $first }}, {{ end -}}{{- $first = false -}}
{{ $key | quote }}: dyn({{ include "token-sidecar.cel" $value }})
{{- end -}} }
{{- else if kindIs "slice" . -}}
[ {{- range $i, $value := . -}}{{- if $i }}, {{ end -}}dyn({{ include "token-sidecar.cel" $value }}){{- end -}} ]
{{- else -}}
{{ toJson . }}
{{- end -}}
{{- end -}}

{{/* JSON patches, in CEL, that put items at a place of a list of the pod's spec (0 or -), and create a list that is missing. */}}
{{- define "token-sidecar.add" -}}
(has(object.spec.{{ .list }}) ? [] : [JSONPatch{op: "add", path: "/spec/{{ .list }}", value: []}]) +
[
  {{- range .items }}
  JSONPatch{op: "add", path: "/spec/{{ $.list }}/{{ $.at }}", value: {{ include "token-sidecar.cel" . }}},
  {{- end }}
]
{{- end -}}
