// People found by a server: one image by POST, frames of a camera by a WebSocket.

const RETRIES = 4;
const IN_FLIGHT = 2;
const FRAME_WIDTH = 640;

let key = "";

/** What went wrong, and what to do about it. */
class Failure extends Error {
  constructor({ message, remedy }, { unauthorised = false, brief = false } = {}) {
    super(remedy ? `${message} ${remedy}` : message);
    Object.assign(this, { unauthorised, brief });
  }
}

const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

async function failureOf(response) {
  const unauthorised = response.status === 401;
  const answer = await response.json().catch(() => null);
  const error = answer?.error ?? { message: `The server answered ${response.status} ${response.statusText}.` };
  return new Failure(error, { unauthorised });
}

async function request(address, options = {}) {
  for (let attempt = 0; ; attempt++) {
    const headers = key ? { Authorization: `Bearer ${key}` } : {};
    let response;
    try {
      response = await fetch(address, { ...options, headers: { ...options.headers, ...headers } });
    } catch {
      throw new Failure({ message: "The server does not answer.", remedy: "Check that it runs, then try again." });
    }
    if (response.ok) return response.json();
    const seconds = Number(response.headers.get("Retry-After"));
    if (response.status !== 503 || !(seconds >= 0) || attempt === RETRIES) throw await failureOf(response);
    await pause(1000 * Math.min(Math.max(seconds, 0.2), 10));
  }
}

function base64url(text) {
  const bytes = Array.from(new TextEncoder().encode(text), (byte) => String.fromCharCode(byte));
  return btoa(bytes.join("")).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

/** A stream's answers come in the order of the frames. */
class RemoteStream {
  capacity = IN_FLIGHT;
  #waiting = [];
  #socket;

  constructor({ scoreThr, track, smooth }) {
    const address = new URL("stream", document.baseURI);
    address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
    const flags = { score_thr: scoreThr, track: Number(track), smooth: Number(smooth) };
    address.search = new URLSearchParams(flags).toString();
    this.#socket = new WebSocket(address, key ? ["rtmo", `key.${base64url(key)}`] : ["rtmo"]);
    this.#socket.onmessage = ({ data }) => this.#answer(JSON.parse(data));
    this.#socket.onclose = ({ reason }) => {
      const failure = new Failure({ message: reason || "The connection to the server has ended." });
      for (const { reject } of this.#waiting.splice(0)) reject(failure);
    };
    this.opened = new Promise((resolve, reject) => {
      this.#socket.onopen = resolve;
      this.#socket.onerror = () => reject(new Failure({ message: "The server takes no stream." }));
    });
  }

  #answer(result) {
    const { resolve, reject } = this.#waiting.shift() ?? {};
    if (result.error) reject?.(new Failure(result.error, { brief: true }));
    else resolve?.(result);
  }

  async find(canvas) {
    const scale = Math.min(1, FRAME_WIDTH / canvas.width);
    const small = document.createElement("canvas");
    [small.width, small.height] = [Math.round(canvas.width * scale), Math.max(1, Math.round(canvas.height * scale))];
    small.getContext("2d").drawImage(canvas, 0, 0, small.width, small.height);
    const jpeg = await new Promise((done) => small.toBlob(done, "image/jpeg", 0.85));
    const answer = new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }));
    if (this.#socket.readyState === WebSocket.OPEN) this.#socket.send(jpeg);
    else this.#waiting.pop().reject(new Failure({ message: "The connection to the server has ended." }));
    return { ...(await answer), shown: small };
  }

  close() {
    this.#socket.close();
  }
}

start({
  async open() {
    return request("model");
  },

  setKey(text) {
    key = text;
  },

  async find(file, image, { scoreThr }, model) {
    if (file.size > (model.limits?.max_bytes ?? Infinity)) {
      throw new Failure({ message: `The file has ${file.size} bytes; the server takes ${model.limits.max_bytes}.` });
    }
    return request(`predict?score_thr=${scoreThr}`, { method: "POST", body: file });
  },

  /** Opens a stream; where that fails, `model` tells whether a key is wanted. */
  async stream(options) {
    for (let attempt = 0; ; attempt++) {
      const stream = new RemoteStream(options);
      try {
        await stream.opened;
        return stream;
      } catch (failure) {
        await request("model");
        if (attempt === RETRIES) throw failure;
        await pause(500 * 2 ** attempt);
      }
    }
  },
});
