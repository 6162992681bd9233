{{/* A value as the text of an environment variable: 1000000, where quote would write 1e+06. */}}
{{- define "token-sidecar.text" -}}
{{- if kindIs "string" . -}}{{ . }}{{- else -}}{{ toJson . }}{{- end -}}
{{- end -}}

{{/* A duration in milliseconds. */}}
{{- define "token-sidecar.milliseconds" -}}
{{- $units := dict "h" 3600000 "m" 60000 "s" 1000 "ms" 1 "us" 0.001 "µs" 0.001 "ns" 0.000001 -}}
{{- $sum := 0.0 -}}
{{- range regexFindAll "[0-9.]+(h|ms|m|us|µs|ns|s)" . -1 -}}
{{- $number := regexFind "^[0-9.]+" . -}}
{{- $sum = addf $sum (mulf (float64 $number) (get $units (trimPrefix $number .))) -}}
{{- end -}}
{{- $sum -}}
{{- end -}}

{{/* What is wrong with the text of a setting of that kind, or nothing. */}}
{{- define "token-sidecar.wrong" -}}
{{- $rule := .rule -}}
{{- $text := trim .text -}}
{{- if not $text -}}
{{- else if eq $rule.kind "duration" -}}
  {{- if not (regexMatch "^(0|([0-9]{1,12}(\\.[0-9]{1,9})?(ns|us|µs|ms|s|m|h))+)$" $text) -}}
    is no duration; use one such as 250ms, 60s or 10m
  {{- else -}}
    {{- $ms := include "token-sidecar.milliseconds" $text | float64 -}}
    {{- if lt $ms (include "token-sidecar.milliseconds" $rule.least | float64) -}}
      is too short; the least is {{ $rule.least }}
    {{- else if gt $ms (include "token-sidecar.milliseconds" $rule.most | float64) -}}
      is too long; the most is {{ $rule.most }}
    {{- end -}}
  {{- end -}}
{{- else if eq $rule.kind "number" -}}
  {{- if not (regexMatch "^[0-9]{1,9}$" $text) -}}
    is no whole number from {{ int64 $rule.least }} to {{ int64 $rule.most }}
  {{- else if or (lt (atoi $text) (int $rule.least)) (gt (atoi $text) (int $rule.most)) -}}
    is not from {{ int64 $rule.least }} to {{ int64 $rule.most }}
  {{- end -}}
{{- else if eq $rule.kind "size" -}}
  {{- if not (regexMatch "^[0-9]{1,13}((Ki|Mi|Gi)?B?)$" $text) -}}
    is not a size; use bytes, or a number with KiB, MiB or GiB
  {{- else -}}
    {{- $unit := get (dict "Ki" 1024 "Mi" 1048576 "Gi" 1073741824) (regexFind "[KMG]i" $text) | default 1 -}}
    {{- $bytes := mulf (float64 (regexFind "^[0-9]+" $text)) $unit -}}
    {{- if or (lt $bytes 1048576.0) (gt $bytes 1099511627776.0) -}}must be from 1MiB to 1024GiB{{- end -}}
  {{- end -}}
{{- else -}}
  {{- $words := list $text -}}
  {{- if eq $rule.kind "words" -}}{{- $words = splitList "," $text -}}{{- end -}}
  {{- $unknown := list -}}
  {{- range $words -}}{{- if not (has (trim .) $rule.of) -}}{{- $unknown = append $unknown (trim .) -}}{{- end -}}{{- end -}}
  {{- with $unknown -}}{{ first . | quote }} is unknown; use {{ join " or " $rule.of }}{{- end -}}
{{- end -}}
{{- end -}}

{{/* The mistakes among the settings that are given by name, one a line. */}}
{{- define "token-sidecar.settingsMistakes" -}}
{{- $v := .values -}}
{{- $env := .env -}}
{{- range $name, $value := $v.settings -}}
  {{- $rule := get $.settings $name -}}
  {{- $text := include "token-sidecar.text" $value -}}
  {{- if kindIs "invalid" $value -}}
  {{- else if or (kindIs "map" $value) (kindIs "slice" $value) }}
settings.{{ $name }}: is a map or a list; settings are text, numbers, true or false
  {{- else if hasPrefix "OTEL_" $name -}}
  {{- else if not $rule }}
settings.{{ $name }}: is no setting of the sidecar; docs/settings.md lists them, other variables go into extraEnv
  {{- else if $rule.value }}
settings.{{ $name }}: has a value of its own in the chart; use {{ $rule.value }}
  {{- else -}}
    {{- with include "token-sidecar.wrong" (dict "rule" $rule "text" $text) }}
settings.{{ $name }}: {{ . }}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- $attempts := include "token-sidecar.text" ($v.settings.UPSTREAM_MAX_ATTEMPTS | default 3) -}}
{{- $ms := include "token-sidecar.milliseconds" (include "token-sidecar.text" ($v.settings.UPSTREAM_TIMEOUT | default "5s")) | float64 -}}
{{- if and (regexMatch "^[0-9]{1,9}$" $attempts) (gt (mulf $ms (atoi $attempts)) 600000.0) }}
settings.UPSTREAM_TIMEOUT: times UPSTREAM_MAX_ATTEMPTS is more than 10m, for which no caller waits; lower one of them
{{- end -}}
{{- if eq (include "token-sidecar.text" ($v.settings.KEEP_REFRESH_TOKENS | default false)) "true" -}}
{{- if not $v.encryptionKeys.existingSecret }}
settings.KEEP_REFRESH_TOKENS: needs keys that outlive the client secret; set encryptionKeys.existingSecret
{{- end -}}
{{- if not (or $v.redis.url (has "REDIS_URL" $env)) }}
settings.KEEP_REFRESH_TOKENS: needs Redis to keep them in; set redis.url
{{- end -}}
{{- end -}}
{{- end -}}
