// Ready-to-paste code for one channel and one action, in curl, JavaScript and Python. Pure: from
// values to texts. A key never stands in them: shells and Python read $SLUICE_KEY.

import { SUBPROTOCOLS, socketUrl, withQuery } from './transports.js';

// ask: { action: sse|websocket|http|publish-websocket, url, format, secured, http, message: { contentType, key, body } }
export function snippets(ask) {
  const makers = { sse: receiveSse, websocket: receiveWebSocket, http: publishHttp, 'publish-websocket': publishWebSocket };
  return makers[ask.action](ask);
}

const sh = (text) => `'${text.replaceAll("'", `'\\''`)}'`;
const quoted = (text) => JSON.stringify(text);
const lines = (...parts) => parts.flat().filter((part) => part !== null && part !== false).join('\n');
// Python strings escape like JSON's.
const py = quoted;

const isJson = (text) => { try { JSON.parse(text); return true; } catch { return false; } };

function receiveSse({ url, format, secured }) {
  const target = withQuery(url, { format: format === 'raw' ? '' : format });
  const parse = format !== 'raw';
  return [
    { name: 'curl', language: 'shell', text: lines(
      secured && 'export SLUICE_KEY=slk_…', `curl -N ${secured ? '-H "Authorization: Bearer $SLUICE_KEY" ' : ''}${sh(target)}`) },
    { name: 'JavaScript', language: 'javascript', text: secured ? fetchSse(target, parse) : eventSource(target, parse) },
    { name: 'Python', language: 'python', note: 'Standard library only.', text: lines(
      `import ${parse ? 'json, ' : ''}${secured ? 'os, ' : ''}urllib.request`, '',
      `request = urllib.request.Request(${py(target)}, headers={`,
      '    "Accept": "text/event-stream",',
      secured && '    "Authorization": "Bearer " + os.environ["SLUICE_KEY"],',
      '})',
      'with urllib.request.urlopen(request) as stream:',
      '    event = "message"',
      '    for line in stream:',
      '        field, _, value = line.decode().strip().partition(":")',
      '        if field == "event":',
      '            event = value.strip()',
      '        elif field == "data":',
      parse ? '            print(event, json.loads(value))' : '            print(event, value.strip())',
      '        elif field == "":',
      '            event = "message"') },
  ];
}

const eventSource = (target, parse) => lines(
  `const source = new EventSource(${quoted(target)});`,
  'source.onmessage = (event) => {',
  parse ? '  const message = JSON.parse(event.data);' : '  console.log(event.data);',
  parse && '  console.log(message.id, message.data);',
  '};',
  '// Reconnects by itself, with Last-Event-ID.',
  'for (const name of ["gap", "throttled", "drain", "problem"]) {',
  '  source.addEventListener(name, (event) => console.warn(name, event.data));',
  '}');

const fetchSse = (target, parse) => lines(
  '// EventSource cannot send a key; fetch can. (Node: type="module")',
  'const key = "slk_…";',
  'let cursor = "";',
  'for (;;) {',
  `  const response = await fetch(${quoted(target)}, {`,
  '    headers: {',
  '      Accept: "text/event-stream", Authorization: `Bearer ${key}`,',
  '      ...(cursor && { "Last-Event-ID": cursor }),',
  '    },',
  '  }).catch(() => null);',
  '  if (response && !response.ok) throw new Error(await response.text());',
  '  let rest = "";',
  '  const text = response?.body.pipeThrough(new TextDecoderStream()) ?? [];',
  '  try {',
  '    for await (const chunk of text) {',
  '      const blocks = (rest + chunk).split("\\n\\n");',
  '      rest = blocks.pop();',
  '      for (const block of blocks) {',
  '        const field = (name) => block.split("\\n").filter((line) => line.startsWith(`${name}:`))',
  '          .map((line) => line.slice(name.length + 1).replace(/^ /, "")).join("\\n");',
  '        cursor = field("id") || cursor;',
  `        if (field("data")) console.log(field("event") || "message", ${parse ? 'JSON.parse(field("data"))' : 'field("data")'});`,
  '      }',
  '    }',
  '  } catch { /* cut off: come back at the cursor */ }',
  '  await new Promise((resolve) => setTimeout(resolve, 1000 + Math.random() * 2000));',
  '}');

function receiveWebSocket({ url, format, secured }) {
  const target = socketUrl(url);
  const protocol = SUBPROTOCOLS[format];
  const frames = format === 'envelope';
  return [
    { name: 'curl', language: 'shell', note: 'Needs curl 8.11 or newer.', text: lines(
      secured && 'export SLUICE_KEY=slk_…',
      `curl -N -H ${sh(`Sec-WebSocket-Protocol: ${protocol}`)} \\`,
      secured && '  -H "Authorization: Bearer $SLUICE_KEY" \\',
      `  ${sh(target)}`) },
    { name: 'JavaScript', language: 'javascript', text: lines(
      keyProtocol(secured),
      frames && 'let cursor;',
      'function connect() {',
      `  const url = new URL(${quoted(target)});`,
      frames && '  if (cursor) url.searchParams.set("cursor", cursor);',
      `  const socket = new WebSocket(url, [${quoted(protocol)}${secured ? ', `sluice.key.${encoded}`' : ''}]);`,
      '  socket.onmessage = ({ data }) => {',
      frames ? [
        '    const frame = JSON.parse(data);',
        '    if (frame.cursor ?? frame.to) cursor = frame.cursor ?? frame.to;',
        '    if (frame.type === "message") console.log(frame.id, frame.data);',
        '    else console.info(frame);'] : '    console.log(data);',
      '  };',
      '  socket.onclose = ({ code, reason }) => {',
      '    console.warn(code, reason);',
      '    const again = [1001, 1006, 1011, 1012, 1013, 4408, 4429].includes(code);',
      '    if (again) setTimeout(connect, 1000 + Math.random() * 2000);',
      '  };',
      '}',
      'connect();') },
    { name: 'Python', language: 'python', note: 'pip install websockets', text: lines(
      frames || secured ? `import ${[frames && 'json', secured && 'os'].filter(Boolean).join(', ')}` : null,
      'from websockets.sync.client import connect', '',
      ...pySocket(target, protocol, secured),
      '    for data in socket:',
      frames ? ['        frame = json.loads(data)', '        print(frame["type"], frame.get("id"), frame.get("data"))'] : '        print(data)') },
  ];
}

const keyProtocol = (secured) => secured && lines(
  '// A browser\'s WebSocket sends a key as a subprotocol: base64url beside a real one.',
  'const encoded = btoa("slk_…").replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");');

const pySocket = (target, protocol, secured) => [
  'with connect(',
  `    ${py(target)},`,
  `    subprotocols=[${py(protocol)}],`,
  secured && '    additional_headers={"Authorization": "Bearer " + os.environ["SLUICE_KEY"]},',
  ') as socket:',
];

function publishHttp({ url, secured, message: { contentType, key, body } }) {
  const plain = /^[!-~](?:[ -~]*[!-~])?$/.test(key); // Fits a header; an empty key does not.
  const target = withQuery(url, { key: plain ? '' : key });
  const type = contentType || 'application/octet-stream';
  return [
    { name: 'curl', language: 'shell', text: lines(
      secured && 'export SLUICE_KEY=slk_…',
      `curl ${sh(target)} \\`,
      secured && '  -H "Authorization: Bearer $SLUICE_KEY" \\',
      `  -H ${sh(`Content-Type: ${type}`)} \\`,
      plain && `  -H ${sh(`Message-Key: ${key}`)} \\`,
      `  --data-binary ${sh(body)}`) },
    { name: 'JavaScript', language: 'javascript', text: lines(
      `const response = await fetch(${quoted(target)}, {`,
      '  method: "POST",',
      '  headers: {',
      `    "Content-Type": ${quoted(type)},`,
      plain && `    "Message-Key": ${quoted(key)},`,
      secured && '    "Authorization": "Bearer slk_…",',
      '  },',
      `  body: ${/json/i.test(type) && isJson(body) ? `JSON.stringify(${body.trim().replaceAll('\n', '\n  ')})` : quoted(body)},`,
      '});',
      'console.log(response.status, await response.json());') },
    { name: 'Python', language: 'python', note: 'Standard library only.', text: lines(
      `import json, ${secured ? 'os, ' : ''}urllib.request`, '',
      'request = urllib.request.Request(',
      `    ${py(target)},`,
      '    headers={',
      `        "Content-Type": ${py(type)},`,
      plain && `        "Message-Key": ${py(key)},`,
      secured && '        "Authorization": "Bearer " + os.environ["SLUICE_KEY"],',
      '    },',
      `    data=${py(body)}.encode(),`,
      ')',
      'with urllib.request.urlopen(request) as answer:',
      '    print(answer.status, json.load(answer)["id"])') },
  ];
}

function publishWebSocket(ask) {
  const { url, secured, http, message: { contentType, key, body } } = ask;
  const target = socketUrl(url);
  const json = /json/i.test(contentType || 'json') && isJson(body);
  const fields = { type: 'publish', id: '1', ...(key && { key }), contentType: contentType || 'application/json' };
  const frame = json ? { ...fields, data: JSON.parse(body) } : { ...fields, data: body };
  if (!json && !/^text\//i.test(contentType)) frame.contentType = 'text/plain';
  const text = JSON.stringify(frame, null, 2);
  return [
    { name: 'curl', language: 'shell', note: 'curl cannot send WebSocket frames.', text: http ? publishHttp(ask)[0].text : '# This channel takes messages over WebSocket only: use JavaScript or Python.' },
    { name: 'JavaScript', language: 'javascript', text: lines(
      keyProtocol(secured),
      `const socket = new WebSocket(${quoted(target)}, ["sluice.v1.json"${secured ? ', `sluice.key.${encoded}`' : ''}]);`,
      'socket.onmessage = ({ data }) => {',
      '  const frame = JSON.parse(data);',
      '  if (frame.type === "ready") socket.send(JSON.stringify(message));',
      '  if (frame.type === "ack") console.log("acknowledged", frame.message);',
      '  if (frame.type === "nack") console.warn(frame.code, frame.detail);',
      '};',
      `const message = ${text};`) },
    { name: 'Python', language: 'python', note: 'pip install websockets', text: lines(
      `import json${secured ? ', os' : ''}`,
      'from websockets.sync.client import connect', '',
      `message = json.loads(${py(JSON.stringify(frame))})`,
      ...pySocket(target, 'sluice.v1.json', secured),
      '    socket.send(json.dumps(message))',
      '    for data in socket:',
      '        frame = json.loads(data)',
      '        if frame["type"] in ("ack", "nack"):',
      '            print(frame)',
      '            break') },
  ];
}
