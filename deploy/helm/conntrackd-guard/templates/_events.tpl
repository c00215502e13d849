{{/* Whether a container of its own reports Events and a condition. A dry run leaves it nothing to report. */}}
{{- define "guard.hasEvents" -}}
{{- if and .Values.events.enabled (not .Values.dryRun) }}yes{{ end }}
{{- end }}

{{/* The only container with a token. It has no path of the node, and nothing of the pod to write. */}}
{{- define "guard.eventsContainer" -}}
- name: events
  image: {{ include "guard.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  args: [events]
  env:
    # No path of the node is mounted.
    - name: GUARD_ROOT
      value: ""
    - name: NODE_NAME
      valueFrom:
        fieldRef:
          fieldPath: spec.nodeName
    - name: POD_NAME
      valueFrom:
        fieldRef:
          fieldPath: metadata.name
  terminationMessagePolicy: FallbackToLogsOnError
  resources: {{- toYaml .Values.events.resources | nindent 4 }}
  securityContext:
    # An id that nothing else on the node has.
    runAsUser: 2023061807
    runAsGroup: 2023061807
    runAsNonRoot: true
    readOnlyRootFilesystem: true
    allowPrivilegeEscalation: false
    capabilities:
      drop: [ALL]
  volumeMounts:
    - name: outbox
      mountPath: /run/conntrackd-guard-events
      readOnly: true
    - name: token
      mountPath: /var/run/secrets/kubernetes.io/serviceaccount
      readOnly: true
{{- end }}

{{/* In memory: a slow disk of the node must not hold up what the guard records. */}}
{{- define "guard.eventsVolumes" -}}
- name: outbox
  emptyDir:
    medium: Memory
    sizeLimit: 8Mi
- name: token
  projected:
    sources:
      - serviceAccountToken:
          path: token
          expirationSeconds: 3600
      - configMap:
          name: kube-root-ca.crt
          items:
            - key: ca.crt
              path: ca.crt
{{- end }}

{{/* The node that a token belongs to: Kubernetes 1.30 and later put it into the token of a pod. */}}
{{- define "guard.ownNode" -}}
- name: node
  expression: >-
    request.userInfo.extra[?"authentication.kubernetes.io/node-name"][0].orValue("")
{{- end }}
