{{/* An annotation of the pod, in CEL, or what it is without one: (list name default). */}}
{{- define "token-sidecar.annotation" -}}
object.metadata.?annotations["token-sidecar/{{ first . }}"].orValue({{ last . | default "" | toString | toJson }})
{{- end -}}

{{/* What a pod must be like to get the sidecar, and what it is told where it is not. after: also when it has got it. */}}
{{- define "token-sidecar.podRules" -}}
{{- $v := .values -}}
{{- $token := include "token-sidecar.annotation" (list "port" $v.ports.token) -}}
{{- $admin := include "token-sidecar.annotation" (list "admin-port" $v.ports.admin) -}}
{{- $app := include "token-sidecar.annotation" (list "app-container" "") -}}
{{- $others := printf "(object.spec.containers + object.spec.?initContainers.orValue([])).filter(c, c.name != %q)" .name -}}
{{- $port := "^(102[4-9]|10[3-9][0-9]|1[1-9][0-9]{2}|[2-9][0-9]{3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])$" -}}
{{- $name := "^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$" -}}
- name: own-network
  expression: '!object.spec.?hostNetwork.orValue(false)'
  message: the pod has hostNetwork, where everybody on the node could ask the sidecar for tokens; leave out hostNetwork or the label
  after: true
{{- range list "token-sidecar/port" "token-sidecar/admin-port" }}
- name: {{ base . }}
  expression: {{ printf "%s.matches('%s')" (ternary $token $admin (eq (base .) "port")) $port | quote }}
  message: annotation {{ . }} is no port from 1024 to 65535
  after: true
{{- end }}
- name: two-ports
  expression: {{ printf "%s != %s" $token $admin | quote }}
  message: the annotations token-sidecar/port and token-sidecar/admin-port are the same; choose two ports
  after: true
- name: free-ports
  expression: {{ printf "!%s.exists(c, c.?ports.orValue([]).exists(p, string(p.containerPort) in [%s, %s]))" $others (ternary $admin $token (eq (toString $v.socket) "true")) $admin | quote }}
  message: a container has a port that the sidecar takes before it starts; choose others by the annotations token-sidecar/port and token-sidecar/admin-port
  after: true
- name: client
  expression: {{ printf "%s != ''" (include "token-sidecar.annotation" (list "client-id" ($v.humanapi.clientId | default (.clientFromEnv | ternary "env" "")))) | quote }}
  message: annotation token-sidecar/client-id is missing; set it to the client_id of the service at Human API
  after: true
{{- if not $v.humanapi.csi }}
- name: secret
  expression: {{ printf "%s.matches('%s')" (include "token-sidecar.annotation" (list "secret" .secret)) $name | quote }}
  message: annotation token-sidecar/secret is missing or no name of a Secret; name the Secret of this namespace that holds the client secret
  after: true
{{- end }}
- name: product
  expression: {{ printf "%s in ['connect', 'hip']" (include "token-sidecar.annotation" (list "product" $v.humanapi.product)) | quote }}
  message: annotation token-sidecar/product is neither connect nor hip
  after: true
{{- if include "token-sidecar.shares" $v }}
- name: app-container
  expression: {{ printf "%s in ([''] + object.spec.containers.map(c, c.name))" $app | quote }}
  message: annotation token-sidecar/app-container names no container of the pod
  after: true
- name: free-path
  expression: {{ printf "!%s.exists(c, c.?volumeMounts.orValue([]).exists(m, m.mountPath == '/run/token-sidecar' && m.name != '%s-run'))" $others .name | quote }}
  message: a container has a volume at /run/token-sidecar, where the sidecar's goes
  after: true
{{- end }}
- name: free-volumes
  expression: {{ printf "!object.spec.?volumes.orValue([]).exists(v, v.name in ['%s'])" (join "', '" .volumes) | quote }}
  message: the pod has a volume with a name of the sidecar's ({{ join ", " .volumes }}); rename it
  after: false
{{- end -}}

{{- define "token-sidecar.newPods" -}}
matchPolicy: Equivalent
resourceRules:
  - {apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods]}
{{- end -}}

{{- define "token-sidecar.optedIn" -}}
namespaceSelector: {{- .values.injection.namespaceSelector | default (dict "matchLabels" (dict "kubernetes.io/metadata.name" .namespace)) | toYaml | nindent 2 }}
objectSelector:
  matchLabels: {{- include "token-sidecar.podLabels" .values | nindent 4 }}
{{- end -}}

{{- define "token-sidecar.there" -}}
(object.spec.containers + object.spec.?initContainers.orValue([])).exists(c, c.name == "{{ . }}")
{{- end -}}
