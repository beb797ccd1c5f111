// The API as openapi.json describes it.
const make = (tag, text, ...children) => {
  const element = document.createElement(tag);
  if (text) element.textContent = text;
  element.append(...children);
  return element;
};

const named = (schema) => schema?.$ref?.split("/").pop();

function typeOf(schema) {
  if (!schema) return "";
  if (schema.$ref) return named(schema);
  if (schema.anyOf) return schema.anyOf.map(typeOf).join(" or ");
  if (schema.type === "array") return `list of ${typeOf(schema.items) || "anything"}`;
  const bounds = [schema.minimum !== undefined && `from ${schema.minimum}`, schema.maximum !== undefined && `to ${schema.maximum}`];
  return [schema.type ?? "anything", ...bounds.filter(Boolean)].join(" ");
}

function table(heads, rows) {
  const head = make("thead", "", make("tr", "", ...heads.map((text) => make("th", text))));
  return make("table", "", head, make("tbody", "", ...rows.map((row) => make("tr", "", ...row.map((text) => make("td", text))))));
}

function operation(path, method, about) {
  const parts = [make("h2", `${method.toUpperCase()} ${path}`), make("p", about.description ?? about.summary)];
  if (about.requestBody) {
    parts.push(make("h3", "Body"), make("p", about.requestBody.description), make("p", Object.keys(about.requestBody.content).join(", ")));
  }
  if (about.parameters) {
    const rows = about.parameters.map((each) => [each.name, typeOf(each.schema), each.description ?? ""]);
    parts.push(make("h3", "Parameters"), table(["name", "value", "meaning"], rows));
  }
  const rows = Object.entries(about.responses).map(([status, reply]) => {
    const [kind, content] = Object.entries(reply.content ?? {})[0] ?? ["", {}];
    return [status, named(content.schema) ?? kind, reply.description];
  });
  parts.push(make("h3", "Answers"), table(["status", "form", "meaning"], rows));
  return make("article", "", ...parts);
}

function form(name, schema) {
  const rows = Object.entries(schema.properties ?? {}).map(([field, about]) => [field, typeOf(about), about.description ?? ""]);
  return make("article", "", make("h2", name), make("p", schema.description), table(["field", "value", "meaning"], rows));
}

const place = document.getElementById("operations");
try {
  const reply = await fetch("/openapi.json");
  if (!reply.ok) throw new Error((await reply.json()).message);
  const api = await reply.json();
  document.getElementById("model").textContent = `version ${api.info.version}`;
  const operations = Object.entries(api.paths).flatMap(([path, methods]) => Object.entries(methods).map(([method, about]) => operation(path, method, about)));
  const forms = Object.entries(api.components?.schemas ?? {}).map(([name, schema]) => form(name, schema));
  place.replaceChildren(make("p", api.info.description), ...operations, ...forms);
} catch (error) {
  place.replaceChildren(make("p", `The description cannot be shown; ${error.message}`));
}
