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

// Lets only the holders of the keys in `secret`, a manifest called `<api>-keys`, into `channels`.
export const keyPolicy = (api, channels, secret) => `---
${secret}---
apiVersion: sluice.dev/v1alpha1
kind: StreamPolicy
metadata: {name: ${api}-keys}
spec:
  targetRefs: [${channels.map((name) => `{kind: StreamAPI, name: ${api}, sectionName: ${name}}`).join(', ')}]
  authentication: {apiKeys: {secretRef: {name: ${api}-keys}}}
`;

export const memory = '{name: board, memory: {}}';
export const generator = (rate, name = 'events') => `{name: ${name}, generator: {messagesPerSecond: ${rate}}}`;
