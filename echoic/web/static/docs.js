// The operations of /openapi.json with their fields, as tables.
import { $, el } from './dom.js';

const nameOf = (ref) => ref.split('/').pop();

// A schema in a few words, with links to those that have a name.
function worded(schema) {
  if (!schema || !Object.keys(schema).length) return ['anything'];
  if (schema.$ref) return [el('a', { href: `#schema-${nameOf(schema.$ref)}` }, nameOf(schema.$ref))];
  const several = schema.anyOf ?? schema.oneOf;
  if (several && !schema.type) return several.flatMap((each, i) => (i ? [' or ', ...worded(each)] : worded(each)));
  if (schema.prefixItems) {
    return ['[', ...schema.prefixItems.flatMap((each, i) => (i ? [', ', ...worded(each)] : worded(each))), ']'];
  }
  if (schema.type === 'array') return ['list of ', ...worded(schema.items)];
  const kind = schema.format ? `${schema.type} (${schema.format})` : schema.type ?? 'object';
  return [kind];
}

function limits(schema) {
  const told = {
    minimum: 'at least', maximum: 'at most', minLength: 'characters: at least', maxLength: 'characters: at most',
    minItems: 'entries: at least', maxItems: 'entries: at most', pattern: 'matches',
  };
  return Object.entries(told).filter(([key]) => key in schema).map(([key, words]) => `${words} ${schema[key]}`);
}

const preset = (schema) => ('default' in schema && schema.default !== null ? [`if left out: ${JSON.stringify(schema.default)}`] : []);

function fields(rows) {
  const head = el('tr', {}, ...['field', 'is', ''].map((name) => el('th', { scope: 'col' }, name)));
  const body = rows.map(([name, needed, schema, description]) =>
    el('tr', {},
      el('td', {}, el('code', {}, name), needed ? '' : ' (optional)'),
      el('td', {}, ...worded(schema)),
      el('td', {}, [description, ...limits(schema), ...preset(schema)].filter(Boolean).join('; '))));
  return el('table', {}, el('thead', {}, head), el('tbody', {}, ...body));
}

const ofObject = (schema) => fields(Object.entries(schema.properties ?? {}).map(([name, each]) =>
  [name, (schema.required ?? []).includes(name), each, each.description]));

const inlined = (schema) => (schema?.type === 'object' && schema.properties ? ofObject(schema) : el('p', {}, ...worded(schema)));

function operation(method, path, told) {
  const parts = [el('h3', {}, el('span', { class: 'method' }, method.toUpperCase()), path)];
  if (told.description) parts.push(el('p', {}, told.description));
  if (told.parameters?.length) {
    parts.push(el('h4', {}, 'In the address'));
    parts.push(fields(told.parameters.map((each) => [each.name, each.required, each.schema ?? {}, each.description])));
  }
  for (const [kind, content] of Object.entries(told.requestBody?.content ?? {})) {
    parts.push(el('h4', {}, `Body: ${kind}`), inlined(content.schema));
  }
  const answers = Object.entries(told.responses ?? {}).map(([status, answer]) => {
    const [kind, content] = Object.entries(answer.content ?? {})[0] ?? [];
    const is = kind === 'application/json' ? worded(content.schema) : [kind ?? ''];
    return el('tr', {}, el('td', {}, el('code', {}, status)), el('td', {}, answer.description ?? ''), el('td', {}, ...is));
  });
  const good = answers.filter((_, i) => Object.keys(told.responses)[i] < '400');
  const bad = answers.filter((_, i) => Object.keys(told.responses)[i] >= '400');
  parts.push(el('h4', {}, 'Answers'), el('table', {}, el('tbody', {}, ...good)));
  if (bad.length) {
    parts.push(el('details', {}, el('summary', {}, 'Refusals'), el('table', {}, el('tbody', {}, ...bad))));
  }
  return el('section', { id: `${method}-${path}` }, ...parts);
}

async function show() {
  const answer = await fetch('/openapi.json');
  if (!answer.ok) throw new Error(`/openapi.json: ${answer.status}`);
  const told = await answer.json();
  $('lead').textContent = `${told.info.title} ${told.info.version}: ${told.info.description} Every refusal is {"error": "one line"}.`;
  for (const [path, methods] of Object.entries(told.paths)) {
    for (const [method, each] of Object.entries(methods)) {
      $('contents').append(el('a', { href: `#${method}-${path}` }, `${method.toUpperCase()} ${path}`));
      $('operations').append(operation(method, path, each));
    }
  }
  $('schemas-title').hidden = false;
  for (const [name, schema] of Object.entries(told.components?.schemas ?? {})) {
    const parts = [el('h3', {}, name)];
    if (schema.description) parts.push(el('p', {}, schema.description));
    $('schemas').append(el('section', { id: `schema-${name}` }, ...parts, inlined(schema)));
  }
}

show().catch((error) => { $('lead').textContent = `The API cannot be shown: ${error.message}`; });
