// People found in the browser itself, by ONNX Runtime Web: on WebGPU where there is one, else on the CPU.

const setup = JSON.parse(document.getElementById("setup").textContent);
const asked = new URLSearchParams(location.search);
const [HEIGHT, WIDTH] = setup.input_hw;

// WebGPU must find what the CPU finds: pixels of the network's input, and scores.
const AGREE_PX = setup.agree_px;
const AGREE_SCORE = setup.agree_score;

let ort;
let session;
let opened;
let checked = false;
let newest = 0;
let running = Promise.resolve();

async function adapterOf() {
  if (asked.get("backend") === "wasm" || !navigator.gpu) return null;
  return navigator.gpu.requestAdapter();
}

/** As many as there are cores, up to four; shared memory needs a page that is isolated from other origins. */
function threadCount() {
  if (!crossOriginIsolated) return 1;
  return Number(asked.get("threads")) || Math.min(4, navigator.hardwareConcurrency || 1);
}

async function openSession(provider, file) {
  const options = { executionProviders: [provider], graphOptimizationLevel: "all", logSeverityLevel: 3 };
  return ort.InferenceSession.create(new URL(file, document.baseURI).href, options);
}

async function load() {
  if (location.protocol === "file:") {
    throw new Error("A browser loads no model from a file. Serve this folder: python serve.py");
  }
  const adapter = await adapterOf();
  const provider = adapter ? "webgpu" : "wasm";
  if (asked.get("backend") === "webgpu" && !adapter) throw new Error("This browser has no WebGPU adapter.");
  ort = await import(new URL(`runtime/ort.${provider}.min.mjs`, document.baseURI).href);
  ort.env.logLevel = "error";
  ort.env.wasm.wasmPaths = new URL("runtime/", document.baseURI).href;
  ort.env.wasm.numThreads = threadCount();
  ort.env.wasm.proxy = provider === "wasm"; // in a worker: the page stays responsive
  const half = setup.files.fp16 && adapter?.features.has("shader-f16");
  const file = half ? setup.files.fp16 : setup.files.fp32;
  session = await openSession(provider, file);
  const threads = ort.env.wasm.numThreads;
  const cpu = `CPU, ${threads} thread${threads > 1 ? "s" : ""}`;
  const device = adapter ? adapter.info?.description || adapter.info?.vendor || "GPU" : cpu;
  opened = { ...setup, backend: `ONNX Runtime Web, ${adapter ? "WebGPU" : "WASM"}`, device, file };
  opened.precision = half ? "fp16" : "fp32";
  checked = !adapter;
  return opened;
}

function tensorOf(data) {
  return new ort.Tensor("float32", data, [1, 3, HEIGHT, WIDTH]);
}

/** Rows of output with a score above the threshold, in pixels of the image. */
function peopleOf({ dets, keypoints }, { scale, offset }, scoreThr) {
  const [rows, joints] = [dets.dims[1], keypoints.dims[2]];
  const back = (value, axis) => (value - offset[axis]) / scale;
  const people = [];
  for (let row = 0; row < rows; row++) {
    const [x1, y1, x2, y2, score] = dets.data.subarray(5 * row, 5 * row + 5);
    if (!(score > scoreThr)) continue;
    const points = [];
    for (let joint = 0; joint < joints; joint++) {
      const at = 3 * (row * joints + joint);
      const [x, y, visibility] = keypoints.data.subarray(at, at + 3);
      points.push([back(x, 0), back(y, 1), visibility]);
    }
    people.push({ box: [back(x1, 0), back(y1, 1), back(x2, 0), back(y2, 1)], score, keypoints: points });
  }
  return people;
}

/** Whether every confident person of one result is in the other: half of the keypoints at least that close. */
function agree(first, second, { scale }) {
  const confident = (people) => people.filter((person) => person.score > setup.score_thr + AGREE_SCORE);
  const same = (one, other) => {
    const near = one.keypoints.filter(([x, y], joint) => {
      const [u, v] = other.keypoints[joint];
      return Math.hypot(x - u, y - v) <= AGREE_PX / scale;
    });
    return Math.abs(one.score - other.score) <= AGREE_SCORE && 2 * near.length >= one.keypoints.length;
  };
  const found = (one, all) => all.some((other) => same(one, other));
  return confident(first).every((one) => found(one, second)) && confident(second).every((one) => found(one, first));
}

/** On the first image with somebody in it: does this GPU find what the CPU finds? Otherwise the CPU goes on. */
async function check(outputs, data, place) {
  const onCpu = await openSession("wasm", setup.files.fp32);
  const reference = await onCpu.run({ input: tensorOf(data) });
  const [here, there] = [outputs, reference].map((one) => peopleOf(one, place, setup.score_thr));
  if (!here.length && !there.length) return outputs;
  checked = true;
  if (agree(here, there, place)) {
    await onCpu.release();
    return outputs;
  }
  await session.release();
  session = onCpu;
  Object.assign(opened, { backend: "ONNX Runtime Web, WASM", device: "CPU", precision: "fp32", file: setup.files.fp32 });
  opened.note = "WebGPU on this device finds other people than the CPU. The CPU is used.";
  showModel(opened);
  return reference;
}

async function findIn(canvas, { scoreThr }, decodeMs) {
  const { width, height } = canvas;
  const begun = performance.now();
  const { data } = canvas.getContext("2d", { willReadFrequently: true }).getImageData(0, 0, width, height);
  const { tensor, ...place } = letterbox(data, width, height, WIDTH, HEIGHT);
  const prepared = performance.now();
  let outputs = await session.run({ input: tensorOf(tensor) });
  const inferred = performance.now();
  if (!checked) outputs = await check(outputs, tensor, place);
  const people = peopleOf(outputs, place, scoreThr);
  const timings = { decode: decodeMs, letterbox: prepared - begun, inference: inferred - prepared };
  timings.total = timings.decode + timings.letterbox + timings.inference;
  return { width, height, people, timings_ms: timings, skeleton: setup.skeleton.name };
}

/** Does something after all before it: a session runs one image at a time, and WebGPU hangs otherwise. */
function inTurn(work) {
  const done = running.then(work);
  running = done.catch(() => {});
  return done;
}

start({
  open: load,

  async find(file, image, options) {
    if (!image) throw new Error("This browser cannot read the image. Use JPEG, PNG or WebP.");
    const mine = ++newest;
    return inTurn(() => {
      if (mine !== newest) throw new Error("Another image was chosen.");
      return findIn(image.canvas, options, image.milliseconds);
    });
  },

  async stream(options) {
    return {
      capacity: 1,
      find: async (canvas) => ({ ...(await inTurn(() => findIn(canvas, options, 0))), shown: canvas }),
      close() {},
    };
  },
});
