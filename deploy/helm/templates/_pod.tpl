{{- define "audit.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* The pod, which both kinds of workload have. */}}
{{- define "audit.pod" -}}
metadata:
  labels:
    {{- include "audit.labels" . | nindent 4 }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .Values.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ .Release.Name }}
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    # The group that owns the volume.
    fsGroup: 65532
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile:
      type: RuntimeDefault
  containers:
    - name: host
      image: {{ printf "%s%s" .Values.image.repository (ternary (printf "@%s" .Values.image.digest) (printf ":%s" (.Values.image.tag | default .Chart.AppVersion)) (ne .Values.image.digest "")) | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args:
        {{- range .Values.args }}
        - {{ . | quote }}
        {{- end }}
        # Exits when only a restart helps. Kubernetes then restarts the container.
        - "--exit-when-stopped=true"
      env:
        - {name: LISTEN, value: {{ printf "0.0.0.0:%v" .Values.ports.clients | quote }}}
        - {name: OPERATORS_LISTEN, value: {{ printf "0.0.0.0:%v" .Values.ports.operators | quote }}}
        - {name: DATA_DIR, value: /data}
        - {name: AUDIT_BUCKET, value: {{ .Values.bucket | quote }}}
        {{- if not .Values.journal.enabled }}
        - {name: AUDIT_JOURNAL, value: none}
        {{- end }}
        {{- with .Values.evidence.name }}
        - {name: AUDIT_EVIDENCE, value: {{ . | quote }}}
        {{- end }}
        {{- if .Values.evidence.existingSecret }}
        - name: AUDIT_EVIDENCE_KEY
          valueFrom:
            secretKeyRef:
              name: {{ .Values.evidence.existingSecret }}
              key: {{ .Values.evidence.key }}
        {{- end }}
        {{- range $name, $value := .Values.env }}
        - {name: {{ $name }}, value: {{ $value | quote }}}
        {{- end }}
        {{- with .Values.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      ports:
        - {name: clients, containerPort: {{ .Values.ports.clients }}}
        - {name: operators, containerPort: {{ .Values.ports.operators }}}
      # A start reads the journal and probes the bucket.
      startupProbe:
        httpGet: {path: /livez, port: operators}
        periodSeconds: 2
        failureThreshold: 60
      # Fails only if a restart helps.
      livenessProbe:
        httpGet: {path: /livez, port: operators}
        periodSeconds: 10
      # With a journal, readiness does not depend on the bucket.
      readinessProbe:
        httpGet: {path: /readyz, port: operators}
        periodSeconds: 5
      # Serves until the pod is removed from the service's endpoints.
      lifecycle:
        preStop:
          sleep: {seconds: 5}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities:
          drop: [ALL]
      resources:
        {{- toYaml .Values.resources | nindent 8 }}
      volumeMounts:
        - {name: data, mountPath: /data}
        {{- with .Values.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    {{- if not .Values.journal.enabled }}
    - name: data
      emptyDir: {}
    {{- end }}
    {{- with .Values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
