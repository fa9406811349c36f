{{/* Names, labels, images: what more than one file needs. */}}

{{- define "rockpool.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* At most 40 characters: suffixes follow, and a StatefulSet's pods carry its name in a label of 63. */}}
{{- define "rockpool.fullname" -}}
{{- $name := include "rockpool.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Call: (dict "root" $ "component" NAME). */}}
{{- define "rockpool.selector" -}}
app.kubernetes.io/name: {{ include "rockpool.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "rockpool.labels" -}}
{{ include "rockpool.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Without versions: pods are replaced when what they run changes, not with every chart. */}}
{{- define "rockpool.podLabels" -}}
{{ include "rockpool.selector" . }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Call: (dict "root" $ "image" VALUES). */}}
{{- define "rockpool.image" -}}
{{- with .root.Values.image.registry }}{{ trimSuffix "/" . }}/{{ end -}}
{{- .image.repository -}}
{{- if .image.digest }}@{{ .image.digest }}{{ else }}:{{ .image.tag | default .root.Values.image.tag | default .root.Chart.AppVersion }}{{ end -}}
{{- end -}}

{{/* What containers without a need for anything have. */}}
{{- define "rockpool.restricted" -}}
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
readOnlyRootFilesystem: true
{{- end -}}

{{/* What is on: "true" or nothing. Call: (dict "root" $ "want" auto|enabled|disabled "api" GROUP/VERSION/KIND "what" WORDS). */}}
{{- define "rockpool.on" -}}
{{- $there := .root.Capabilities.APIVersions.Has .api -}}
{{- if and (eq .want "enabled") (not $there) -}}
{{- fail (printf "%s: enabled, but the cluster has no %s: install the CRDs and the snapshot-controller of kubernetes-csi/external-snapshotter first, or say auto" .what .api) -}}
{{- end -}}
{{- if and $there (ne .want "disabled") }}true{{ end -}}
{{- end -}}
{{- define "rockpool.snapshots" -}}
{{- include "rockpool.on" (dict "root" . "want" .Values.snapshots "what" "snapshots" "api" "snapshot.storage.k8s.io/v1/VolumeSnapshotClass") -}}
{{- end -}}
{{- define "rockpool.groupSnapshots" -}}
{{- if and (eq .Values.groupSnapshots "enabled") (eq .Values.snapshots "disabled") -}}
{{- fail "groupSnapshots: enabled, but snapshots are disabled: a group snapshot is made of snapshots" -}}
{{- end -}}
{{- $on := include "rockpool.on" (dict "root" . "want" .Values.groupSnapshots "what" "groupSnapshots" "api" "groupsnapshot.storage.k8s.io/v1/VolumeGroupSnapshotClass") -}}
{{- if and $on (include "rockpool.snapshots" .) }}true{{ end -}}
{{- end -}}

{{/* The objects with the link's certificates: only the first is secret, and only controllers see it. */}}
{{- define "rockpool.linkSecret" -}}
{{- if eq .Values.link.certificates.from "existing" }}{{ .Values.link.certificates.existingSecret }}{{ else }}{{ include "rockpool.fullname" . }}-link{{ end -}}
{{- end -}}
{{- define "rockpool.linkTrust" -}}
{{- if eq .Values.link.certificates.from "existing" }}{{ .Values.link.certificates.existingConfigMap }}{{ else }}{{ include "rockpool.fullname" . }}-link-trust{{ end -}}
{{- end -}}
{{/* The volume with ca.crt. cert-manager writes Secrets only: there it is one with a certificate that is good for nothing, of which ca.crt is taken. */}}
{{- define "rockpool.linkTrustVolume" -}}
{{- if eq .Values.link.certificates.from "cert-manager" -}}
secret:
  secretName: {{ include "rockpool.linkTrust" . }}
  items: [{key: ca.crt, path: ca.crt}]
{{- else -}}
configMap:
  name: {{ include "rockpool.linkTrust" . }}
  items: [{key: ca.crt, path: ca.crt}]
{{- end -}}
{{- end -}}

{{/* The flags of both modes. */}}
{{- define "rockpool.commonArgs" -}}
- --driver-name={{ .Values.driverName }}
- --pool-kinds={{ join "," .Values.poolKinds }}
- --http-listen={{ .Values.listenAddress }}:{{ .Values.metrics.port }}
- --log-format={{ .Values.log.format }}
- --log-level={{ .Values.log.level }}
{{- end -}}

{{/* Both answer alike: alive, ready, and a start that may take its time. No page fails for a pool that is ill: that would stop a rollout. */}}
{{- define "rockpool.probes" -}}
startupProbe:
  httpGet: {path: /healthz, port: http}
  periodSeconds: 2
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /healthz, port: http}
  periodSeconds: 10
  timeoutSeconds: 3
  failureThreshold: 5
readinessProbe:
  httpGet: {path: /readyz, port: http}
  periodSeconds: 5
  timeoutSeconds: 3
{{- end -}}
