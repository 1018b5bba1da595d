// The files that the tests serve.

export const channel = (name, server, more = '') => `
    - name: ${name}
      server: ${server}
      address: ${name}.v1
      message: {contentType: application/json}
${more.replace(/^/gm, '      ')}`;

export const receive = 'subscribe: {transports: {websocket: {}, sse: {}}}';
export const both = `${receive}\npublish: {transports: {http: {}, websocket: {}}}`;

export const streamApi = (name, servers, channels, more = '') => `---
apiVersion: sluice.dev/v1alpha1
kind: StreamAPI
metadata: {name: ${name}}
spec:
  servers: [${servers.join(', ')}]
${more.replace(/^/gm, '  ')}
  channels:${channels.join('')}
`;

// Lets only the holder of the key of `entry` (`id: sha256:…`) into `channels` of `api`.
export const keyPolicy = (api, channels, entry) => `---
apiVersion: v1
kind: Secret
metadata: {name: ${api}-keys, labels: {sluice.dev/use: "true"}}
stringData:
  ${entry}
---
apiVersion: sluice.dev/v1alpha1
kind: StreamPolicy
metadata: {name: ${api}-keys}
spec:
  targetRefs: [${channels.map((name) => `{kind: StreamAPI, name: ${api}, sectionName: ${name}}`).join(', ')}]
  authentication: {apiKeys: {secretRef: {name: ${api}-keys}}}
`;

export const memory = '{name: board, memory: {}}';
export const generator = (rate, name = 'events') => `{name: ${name}, generator: {messagesPerSecond: ${rate}}}`;
