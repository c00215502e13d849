{{- define "guard.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "guard.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "guard.labels" -}}
{{ include "guard.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "guard.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{/* guard.yaml: the settings, and those that other values stand for. */}}
{{- define "guard.settings" -}}
{{- $mode := ternary "dry-run" "act" .Values.dryRun -}}
{{- $listen := printf "%s:%d" .Values.metrics.address (int .Values.metrics.port) -}}
{{- toYaml (merge (dict "mode" $mode "persist" .Values.persist "metrics_http" $listen) .Values.settings) }}
{{- end }}

{{/* Whether a container of its own reads the owners of namespaces. */}}
{{- define "guard.hasOwners" -}}
{{- if and .Values.owners.enabled (not .Values.privileged) }}yes{{ end }}
{{- end }}

{{/*
The host's /proc. What is mounted inside it stays writable although the volume is read-only, such as binfmt_misc, whose
writer can become root of the host. recursiveReadOnly would do, from Kubernetes 1.33 on; empty volumes do everywhere.
*/}}
{{- define "guard.procMounts" -}}
- name: proc
  mountPath: /host/proc
  readOnly: true
- name: empty
  mountPath: /host/proc/sys/fs
  readOnly: true
- name: empty
  mountPath: /host/proc/fs
  readOnly: true
{{- end }}
