{{/* The definition of the resource Tunnel. Takes root and group. */}}
{{- define "moorline.tunnelDefinition" -}}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: tunnels.{{ .group }}
  labels:
    {{- include "moorline.labels" (dict "root" .root "component" "definitions") | nindent 4 }}
  {{- if .root.Values.crds.keep }}
  annotations:
    helm.sh/resource-policy: keep
  {{- end }}
spec:
  group: {{ .group }}
  scope: Namespaced
  names:
    kind: Tunnel
    listKind: TunnelList
    plural: tunnels
    singular: tunnel
    {{- if eq .group "moorline.dev" }}
    shortNames: [tun]
    {{- end }}
  versions:
    - name: v1alpha1
      served: true
      storage: true
      subresources:
        status: {}
      additionalPrinterColumns:
        - name: Ports
          type: string
          jsonPath: .spec.tcpPorts
        - name: Domains
          type: string
          jsonPath: .spec.upstreamDomains
        - name: Connected
          type: string
          jsonPath: .status.conditions[?(@.type=="Connected")].status
        - name: Ready
          type: string
          jsonPath: .status.conditions[?(@.type=="Provisioned")].status
        - name: Age
          type: date
          jsonPath: .metadata.creationTimestamp
      schema:
        openAPIV3Schema:
          {{- include "moorline.tunnelSchema" . | nindent 10 }}
{{- end -}}

{{- define "moorline.tunnelSchema" -}}
type: object
description: A private line into a customer's network. The customer is the namespace, the tunnel this resource's name.
required: [spec]
x-kubernetes-validations:
  - rule: self.metadata.name.size() <= 63 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')
    message: >-
      the name becomes the name of a Service: use 1 to 63 lower-case letters, digits and hyphens, begin with a letter and
      end with a letter or a digit
    fieldPath: .metadata.name
  - rule: >-
      !(self.metadata.name in ['gateway', 'kubernetes', 'localhost', 'moorline', 'pod', 'svc']) &&
      !self.metadata.name.startsWith('kube-') && !self.metadata.name.startsWith('moorline-')
    message: the name is reserved; choose another one
    fieldPath: .metadata.name
properties:
  apiVersion: {type: string}
  kind: {type: string}
  metadata:
    type: object
    properties:
      name: {type: string}
  spec:
    type: object
    properties:
      tcpPorts:
        description: The ports on which the tunnel's Service answers. 8000 is the tunnel's HTTP.
        type: array
        maxItems: 200
        x-kubernetes-list-type: atomic
        items:
          type: integer
          format: int32
          x-kubernetes-validations:
            - rule: self >= 1 && self <= 65535
              message: a port is a number from 1 to 65535
            - rule: self != 8000
              message: port 8000 is taken by the tunnel's HTTP; choose another one
        x-kubernetes-validations:
          - rule: self.all(port, self.exists_one(other, other == port))
            message: a port is listed twice; list each port once
      upstreamDomains:
        description: The HTTP host names that are routed through the tunnel; each gets a Service of its own.
        type: array
        maxItems: 200
        # Refuses duplicates; a rule that compares 200 long names would cost more than the API server grants.
        x-kubernetes-list-type: set
        items:
          type: string
          minLength: 1
          maxLength: 253
          x-kubernetes-validations:
            - rule: self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')
              message: this is no host name in lower case; write one such as intranet.local
      tokenRef:
        description: The Secret with the token of the tunnel's clients. Without it one is generated, named like the tunnel.
        type: object
        required: [name]
        properties:
          name: {type: string, minLength: 1, maxLength: 253}
          namespace: {type: string, maxLength: 63}
          key: {type: string, default: token, minLength: 1, maxLength: 253}
      access:
        description: Who may connect to the tunnel. Everybody in the cluster when it is left out.
        type: object
        properties:
          from:
            description: Namespaces and pods that may connect, and nobody else.
            type: array
            minItems: 1
            maxItems: 50
            x-kubernetes-list-type: atomic
            items:
              type: object
              x-kubernetes-validations:
                - rule: has(self.namespaceSelector) || has(self.podSelector)
                  message: give a namespaceSelector, a podSelector or both
              properties:
                namespaceSelector:
                  description: Pods of which namespaces; those of the tunnel's own one when it is left out.
                  {{- include "moorline.labelSelectorSchema" . | nindent 18 }}
                podSelector:
                  description: Which pods; all of them when it is left out.
                  {{- include "moorline.labelSelectorSchema" . | nindent 18 }}
      expiresAt:
        description: When the tunnel stops to take clients.
        type: string
        format: date-time
      podAnnotations:
        description: Accepted, and without effect, because the tunnel has no pod of its own.
        type: object
        additionalProperties: {type: string}
      nodeSelector:
        description: Accepted, and without effect, because the tunnel has no pod of its own.
        type: object
        additionalProperties: {type: string}
      env:
        description: Accepted, and without effect, because the tunnel has no pod of its own.
        type: array
        maxItems: 200
        x-kubernetes-list-type: atomic
        items:
          type: object
          required: [name]
          x-kubernetes-preserve-unknown-fields: true
          properties:
            name: {type: string, minLength: 1}
            value: {type: string}
      licenseRef:
        description: Accepted, and without effect.
        type: object
        x-kubernetes-preserve-unknown-fields: true
        properties:
          name: {type: string}
          namespace: {type: string}
  status:
    type: object
    properties:
      observedGeneration: {type: integer, format: int64}
      sessions:
        description: How many clients are connected.
        type: integer
        format: int32
      conditions:
        type: array
        x-kubernetes-list-type: map
        x-kubernetes-list-map-keys: [type]
        items:
          type: object
          required: [type, status, reason, lastTransitionTime]
          properties:
            type: {type: string, maxLength: 316}
            status: {type: string, enum: ["True", "False", Unknown]}
            reason: {type: string, maxLength: 1024}
            message: {type: string, maxLength: 32768}
            lastTransitionTime: {type: string, format: date-time}
            observedGeneration: {type: integer, format: int64}
{{- end -}}

{{- define "moorline.labelSelectorSchema" -}}
type: object
properties:
  matchLabels:
    type: object
    additionalProperties: {type: string}
  matchExpressions:
    type: array
    x-kubernetes-list-type: atomic
    items:
      type: object
      required: [key, operator]
      properties:
        key: {type: string}
        operator: {type: string, enum: [In, NotIn, Exists, DoesNotExist]}
        values:
          type: array
          x-kubernetes-list-type: atomic
          items: {type: string}
{{- end -}}
