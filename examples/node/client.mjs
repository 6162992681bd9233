// Read data of a user from Human API: node client.mjs USER [PATH]

import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";

const sidecar = process.env.SIDECAR_URL ?? "http://localhost:8080";
const dataAPI = process.env.DATA_API_URL ?? "https://api.humanapi.co";
const timeout = 20_000; // milliseconds, longer than the sidecar itself waits for the auth service (17 s)

/** The sidecar has no token; errorCode says why, Retry-After when to ask again. */
class TokenError extends Error {
  constructor({ errorCode, message }, retryAfter) {
    super(`${errorCode}: ${message}`);
    this.code = errorCode;
    this.retryAfter = retryAfter;
  }
}

async function callSidecar(method, user, headers = {}) {
  if (process.env.CALLER_TOKEN_FILE) {
    const callerToken = await readFile(process.env.CALLER_TOKEN_FILE, "utf8");
    headers.Authorization = `Bearer ${callerToken.trim()}`;
  }
  const url = `${sidecar}/token?${new URLSearchParams({ client_user_id: user })}`;
  const answer = await fetch(url, { method, headers, signal: AbortSignal.timeout(timeout) });
  const body = await answer.text(); // always read, so that the connection can be used again
  if (!answer.ok) throw new TokenError(JSON.parse(body), answer.headers.get("Retry-After"));
  return body;
}

async function ask(user) {
  return JSON.parse(await callSidecar("GET", user)).access_token;
}

/** Forgets this very token. A newer one, which another caller may have got meanwhile, stays. */
async function forget(user, token) {
  const hash = createHash("sha256").update(token).digest("hex");
  await callSidecar("DELETE", user, { "X-Rejected-Token-Hash": hash });
}

async function use(token, path) {
  const headers = { Authorization: `Bearer ${token}` };
  const answer = await fetch(dataAPI + path, { headers, signal: AbortSignal.timeout(timeout) });
  return { status: answer.status, body: await answer.text() };
}

async function read(user, path) {
  const token = await ask(user);
  let answer = await use(token, path);
  if (answer.status === 401) { // revoked: forget it, and ask once more
    await forget(user, token);
    answer = await use(await ask(user), path);
  }
  if (answer.status !== 200) throw new Error(`${path}: status ${answer.status}`);
  return answer.body;
}

const [user, path = "/v1/human/profile"] = process.argv.slice(2);
console.log(await read(user, path));
