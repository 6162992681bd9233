{{/* The values, whether this chart is installed by itself or is a dependency of the service's chart. */}}
{{- define "token-sidecar.values" -}}
{{- $values := .Values -}}
{{- if ne .Chart.Name "token-sidecar" -}}
{{- $values = index .Values "token-sidecar" | required "token-sidecar: the chart is no dependency of this one, so there are no values for it; add it to dependencies in Chart.yaml" -}}
{{- end -}}
{{- toYaml $values -}}
{{- end -}}

{{/* Names what is missing, with the remedy. */}}
{{- define "token-sidecar.check" -}}
{{- $h := .humanapi -}}
{{- if not $h.clientId -}}{{- fail "humanapi.clientId is missing; set it to the client_id of the service at Human API" -}}{{- end -}}
{{- if and (not $h.existingSecret) (not $h.clientSecret) -}}{{- fail "humanapi.existingSecret is missing; name the Secret that holds the client secret" -}}{{- end -}}
{{- if and $h.existingSecret $h.clientSecret -}}{{- fail "humanapi.clientSecret is set beside humanapi.existingSecret; keep one of them" -}}{{- end -}}
{{- end -}}

{{- define "token-sidecar.image" -}}
{{- if .image.digest -}}{{ .image.repository }}@{{ .image.digest }}
{{- else -}}{{ .image.repository }}:{{ .image.tag | default "0.1.0" }}
{{- end -}}
{{- end -}}

{{/* The Secret with the client secret. */}}
{{- define "token-sidecar.secretName" -}}
{{- $values := include "token-sidecar.values" . | fromYaml -}}
{{- $values.humanapi.existingSecret | default (printf "%s-token-sidecar" .Release.Name) -}}
{{- end -}}

{{- define "token-sidecar.labels" -}}
app.kubernetes.io/name: token-sidecar
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{/* JSON patches, in CEL, that put an item at the head of a list of the pod's spec, and make the list where there is none. */}}
{{- define "token-sidecar.prepend" -}}
(has(object.spec.{{ .list }}) ? [] : [JSONPatch{op: "add", path: "/spec/{{ .list }}", value: []}]) +
[JSONPatch{op: "add", path: "/spec/{{ .list }}/0", value: {{ include "token-sidecar.cel" .item }}}]
{{- end -}}

{{/* A value as a CEL literal. The values of a map have one type there; dyn() lets them differ, as those of JSON do. */}}
{{- define "token-sidecar.cel" -}}
{{- if kindIs "map" . -}}
{ {{- $first := true -}}
{{- range $key, $value := . -}}
{{- if not $first }}, {{ end -}}{{- $first = false -}}
{{ $key | quote }}: dyn({{ include "token-sidecar.cel" $value }})
{{- end -}} }
{{- else if kindIs "slice" . -}}
[ {{- range $i, $value := . -}}{{- if $i }}, {{ end -}}dyn({{ include "token-sidecar.cel" $value }}){{- end -}} ]
{{- else if kindIs "string" . -}}
{{ . | toJson }}
{{- else if kindIs "float64" . -}}
{{ int64 . }}
{{- else -}}
{{ toJson . }}
{{- end -}}
{{- end -}}
