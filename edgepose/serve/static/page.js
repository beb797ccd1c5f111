// The page: watches the source, or shows the poses of a picture that is given.
import { drawScene, fit, shownPersons } from "./draw.js";

const $ = (id) => document.getElementById(id);
const RETRY = { first: 500, longest: 5000 };
const TEXTS = {
  empty: "Drop a picture here, or choose one",
  starting: "The source is starting",
  stalled: "No frames come from the source; it is opened again",
  ended: "The source has ended",
  lost: "Connection lost, reconnecting",
};

let model = null;
let scene = null; // { picture, result, live }
let mode = "picture"; // or "live"
let paused = false;
let watching = 0; // number of the loop that may draw
let tabled = 0;

class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** A request to the server; what it refuses is an error with its message. */
async function ask(path, options) {
  const reply = await fetch(path, options);
  if (reply.ok) return reply;
  if (reply.status === 401) location.reload(); // to the entrance: the server has another token by now
  const body = await reply.json().catch(() => ({}));
  throw new Refused(reply.status, body.message ?? `the server answers ${reply.status}`);
}

const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

const settings = () => ({
  personScore: Number($("person-score").value),
  jointScore: Number($("joint-score").value),
  boxes: $("boxes").checked,
  names: $("names").checked,
});

function say(text) {
  $("notice").hidden = !text;
  if ($("notice").textContent !== text) $("notice").textContent = text;
}

function chip(text, kind) {
  const state = $("state");
  if (state.textContent !== text) state.textContent = text;
  state.className = `chip ${kind}`;
}

function fail(message) {
  $("error").hidden = !message;
  $("error").textContent = message;
  if (message) $("error").scrollIntoView({ block: "nearest" });
}

function redraw() {
  const canvas = $("view");
  const frame = $("frame");
  frame.classList.toggle("empty", !scene);
  const [height, width] = scene ? scene.result.image_size : [540, 960];
  const [wide, high] = fit(width, height, frame.clientWidth, Math.max(window.innerHeight * 0.78, 260));
  const dense = Math.min(window.devicePixelRatio || 1, 2);
  const [pixelsWide, pixelsHigh] = [Math.round(wide * dense), Math.round(high * dense)];
  if (canvas.width !== pixelsWide || canvas.height !== pixelsHigh) {
    canvas.width = pixelsWide;
    canvas.height = pixelsHigh;
    canvas.style.width = `${wide}px`;
    canvas.style.height = `${high}px`;
  }
  if (!scene) {
    canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
    return;
  }
  const drawn = drawScene(canvas, $("picture").checked ? scene.picture : null, scene.result, model, settings());
  canvas.setAttribute("aria-label", `${scene.live ? "Live picture" : "Picture"} with ${drawn} ${drawn === 1 ? "person" : "persons"}`);
  $("persons").textContent = drawn;
}

/** The table and the JSON; of a running source a few times a second. */
function tabulate(now = performance.now()) {
  tabled = now;
  const result = scene?.result ?? null;
  const { personScore, jointScore } = settings();
  const persons = result ? shownPersons(result, personScore) : [];
  const select = $("person");
  const names = persons.map(({ person, place }) => [String(person.track_id ?? place), `${person.track_id ?? place + 1} (${person.score.toFixed(2)})`]);
  const chosen = names.some(([value]) => value === select.value) ? select.value : names[0]?.[0];
  select.replaceChildren(...names.map(([value, text]) => new Option(text, value, false, value === chosen)));
  select.disabled = names.length < 2;
  $("copy").disabled = !result;
  const found = persons.find(({ person, place }) => String(person.track_id ?? place) === chosen);
  const rows = found
    ? model.skeleton.joints.map((name, joint) => {
        const [x, y, score] = found.person.keypoints[name];
        const row = document.createElement("tr");
        row.classList.toggle("weak", x === null || score < jointScore);
        const head = document.createElement("th");
        head.scope = "row";
        const dot = document.createElement("span");
        dot.className = "dot";
        dot.style.background = model.colors.joints[joint];
        head.append(dot, name.replaceAll("_", " "));
        const cells = [x === null ? "–" : x.toFixed(1), y === null ? "–" : y.toFixed(1), score.toFixed(2)];
        row.append(head, ...cells.map((text) => Object.assign(document.createElement("td"), { textContent: text })));
        return row;
      })
    : [];
  $("joints").replaceChildren(...rows);
  $("table-place").hidden = !rows.length;
  if ($("json-place").open) $("json").textContent = result ? JSON.stringify(result, null, 1) : "";
}

function show(next) {
  if (scene?.picture && scene.picture !== next?.picture) scene.picture.close();
  scene = next;
  redraw();
}

// The source.

async function frame(after) {
  const data = await (await ask(`/v1/live/frame?after=${after}`)).arrayBuffer();
  const length = new DataView(data).getUint32(0, true);
  const told = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
  return { ...told, jpeg: data.byteLength > 4 + length ? new Blob([new Uint8Array(data, 4 + length)], { type: "image/jpeg" }) : null };
}

function tellStatus(status) {
  const kinds = { running: "good", starting: "warn", stalled: "warn", ended: "", failed: "bad" };
  chip(status.state === "running" ? "live" : status.state, kinds[status.state] ?? "");
  say(status.state === "failed" ? status.message : (TEXTS[status.state] ?? ""));
  $("fps").textContent = status.state === "running" ? status.fps.toFixed(1) : "–";
  $("latency").textContent = status.latency_ms === null ? "–" : `${Math.round(status.latency_ms)} ms`;
  $("dropped").textContent = status.dropped;
}

async function watch() {
  const mine = ++watching;
  let last = 0;
  let wait = RETRY.first;
  let next = null;
  let lost = false;
  while (mine === watching) {
    if (document.hidden) {
      await new Promise((shown) => document.addEventListener("visibilitychange", shown, { once: true }));
      continue;
    }
    try {
      const got = await (next ?? frame(last));
      next = null;
      if (mine !== watching) return;
      wait = RETRY.first;
      last = got.number;
      if (lost) {
        model = await (await ask("/v1/model")).json(); // it may be another server by now
        lost = false;
      }
      tellStatus(got.status);
      if (!got.jpeg) {
        if (["ended", "failed"].includes(got.status.state)) await sleep(1000);
        continue;
      }
      // The next frame is on its way while this one is drawn; a hidden page asks for none.
      if (!document.hidden) {
        next = frame(last);
        next.catch(() => {});
      }
      const picture = await createImageBitmap(got.jpeg);
      if (mine !== watching) {
        picture.close();
        return;
      }
      show({ picture, result: got.result, live: true });
      if (performance.now() - tabled > 250) tabulate();
    } catch (error) {
      next = null;
      if (mine !== watching) return;
      lost = true;
      chip(error instanceof Refused ? "refused" : "offline", "bad");
      say(error instanceof Refused ? error.message : TEXTS.lost);
      $("fps").textContent = "–";
      await sleep(wait);
      wait = Math.min(wait * 2, RETRY.longest);
    }
  }
}

function setLive() {
  mode = "live";
  paused = false;
  fail("");
  buttons();
  watch();
}

function togglePause() {
  paused = !paused;
  if (paused) {
    watching += 1;
    chip("paused", "warn");
    say("");
    tabulate();
  } else {
    watch();
  }
  buttons();
}

function buttons() {
  $("pause").hidden = mode !== "live";
  $("pause").textContent = paused ? "Go on" : "Pause";
  $("pause").setAttribute("aria-pressed", String(paused));
  $("fps-place").hidden = $("dropped-place").hidden = mode !== "live";
  $("latency-name").textContent = mode === "live" ? "latency" : "time";
  $("latency").textContent = "–";
  $("back").hidden = mode === "live" || !model?.source;
}

// Pictures.

/** What to send: the file, or, where the server takes no such large one, a smaller copy of it. */
async function sendable(file) {
  const { max_bytes: bytes, max_pixels: pixels } = model.limits;
  const picture = await createImageBitmap(file, { imageOrientation: "from-image" }).catch(() => null);
  if (!picture || (file.size <= bytes && picture.width * picture.height <= pixels)) return [file, picture, ""];
  const shrink = Math.min(1, Math.sqrt(pixels / (picture.width * picture.height)), 4096 / Math.max(picture.width, picture.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(Math.floor(picture.width * shrink), 1);
  canvas.height = Math.max(Math.floor(picture.height * shrink), 1);
  canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
  const copy = await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.92));
  return [copy, picture, `Sent as a copy of ${canvas.width} x ${canvas.height} pixels: the server takes no larger one`];
}

async function estimate(file) {
  if (!file || !model) return;
  watching += 1;
  const mine = watching;
  mode = "picture";
  paused = false;
  fail("");
  buttons();
  chip("estimating", "warn");
  try {
    const [data, picture, note] = await sendable(file);
    const reply = await ask("/v1/predict", { method: "POST", body: data, headers: { "Content-Type": data.type || "application/octet-stream" } });
    const result = await reply.json();
    if (mine !== watching) {
      picture?.close();
      return;
    }
    $("latency").textContent = `${Math.round(result.server.total)} ms`;
    say(note);
    show({ picture, result, live: false });
    tabulate();
    chip("picture", "good");
  } catch (error) {
    if (mine !== watching) return;
    chip("failed", "bad");
    fail(error instanceof TypeError ? "the server does not answer; found no connection; check that it runs" : error.message);
    say(scene ? "" : TEXTS.empty);
  }
}

function accept(data) {
  const file = [...(data?.files ?? [])].find((each) => each.type.startsWith("image/")) ?? data?.files?.[0];
  if (file) estimate(file);
  return Boolean(file);
}

// What the user does.

$("file").addEventListener("change", (event) => {
  estimate(event.target.files[0]);
  event.target.value = ""; // so that the same picture can be chosen again
});
$("pause").addEventListener("click", togglePause);
$("back").addEventListener("click", setLive);
for (const id of ["person-score", "joint-score", "boxes", "names", "picture"]) {
  $(id).addEventListener("input", () => {
    for (const name of ["person-score", "joint-score"]) $(`${name}-value`).textContent = Number($(name).value).toFixed(2);
    redraw();
    tabulate();
  });
}
$("person").addEventListener("change", () => tabulate());
$("json-place").addEventListener("toggle", () => tabulate());
$("copy").addEventListener("click", async () => {
  const text = JSON.stringify(scene.result, null, 1);
  try {
    await navigator.clipboard.writeText(text); // given to secure pages alone
    $("copy").textContent = "Copied";
    setTimeout(() => ($("copy").textContent = "Copy"), 1500);
  } catch {
    $("json-place").open = true;
    $("json").textContent = text;
    getSelection().selectAllChildren($("json"));
  }
});
let entered = 0;
document.addEventListener("dragenter", (event) => {
  event.preventDefault();
  entered += 1;
  document.body.classList.add("dragging");
});
document.addEventListener("dragleave", () => {
  entered = Math.max(entered - 1, 0);
  document.body.classList.toggle("dragging", entered > 0);
});
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  entered = 0;
  document.body.classList.remove("dragging");
  if (!accept(event.dataTransfer)) fail("nothing was dropped that can be used; found no file; drop a JPEG, PNG or WebP picture");
});
document.addEventListener("paste", (event) => accept(event.clipboardData));
document.addEventListener("keydown", (event) => {
  if (event.key === " " && mode === "live" && ["BODY", "CANVAS"].includes(event.target.tagName)) {
    event.preventDefault();
    togglePause();
  }
});
new ResizeObserver(redraw).observe($("frame"));
window.addEventListener("resize", redraw);

// A token in the address has become a cookie.
if (new URLSearchParams(location.search).has("token")) history.replaceState(null, "", location.pathname);

async function start() {
  let wait = RETRY.first;
  while (!model) {
    try {
      model = await (await ask("/v1/model")).json();
    } catch (error) {
      chip("offline", "bad");
      say(error instanceof Refused ? error.message : TEXTS.lost);
      await sleep(wait);
      wait = Math.min(wait * 2, RETRY.longest);
    }
  }
  const { spec, backend, source } = model;
  $("model").textContent = [spec.name, `${backend.name} on ${backend.device}`, source?.name].filter(Boolean).join(" · ");
  document.title = `${spec.name} · edgepose`;
  if (source) {
    setLive();
  } else {
    chip("pictures", "good");
    say(TEXTS.empty);
    buttons();
    redraw();
  }
}
start();
