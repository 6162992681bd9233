// The clients of Node; see client in habits_test.go.
import http from "node:http";
import { Readable } from "node:stream";
import { createInterface } from "node:readline";

const [how, base] = process.argv.slice(2);

// http.request, written to and ended
const write = (url, headers, body) => new Promise((resolve, reject) => {
  const request = http.request(url, { method: "POST", headers }, async (response) => {
    let text = "";
    for await (const part of response) text += part;
    resolve([response.statusCode, text]);
  });
  request.on("error", reject);
  request.write(body.slice(0, 5));
  request.write(body.slice(5));
  request.end();
});

// fetch, with a stream for a body
const stream = async (url, headers, body) => {
  const parts = Readable.toWeb(Readable.from([Buffer.from(body.slice(0, 5)), Buffer.from(body.slice(5))]));
  const response = await fetch(url, { method: "POST", headers, body: parts, duplex: "half" });
  return [response.status, await response.text()];
};

const post = async (send) => {
  for await (const line of createInterface({ input: process.stdin })) {
    const [path, type, control, body] = line.split("\t");
    const headers = {};
    if (type) headers["Content-Type"] = type;
    if (control) headers["Cache-Control"] = control;
    const [status, text] = await send(base + path, headers, body);
    console.log(`${status}\t${text.trim()}`);
  }
};

// asks on connections that are kept until it gets no token
const busy = async () => {
  const agent = new http.Agent({ keepAlive: true });
  const ask = () => new Promise((resolve, reject) => {
    http.get(`${base}/token?client_user_id=busy`, { agent }, (response) => {
      response.resume();
      response.on("end", () => resolve([response.statusCode, response.headers.connection]));
    }).on("error", reject);
  });
  const call = async () => {
    let last = Date.now(), before = "";
    for (let n = 1; ; n++) {
      let status, connection;
      try {
        [status, connection] = await ask();
      } catch (error) {
        [status, connection] = [0, error.code ?? error.message];
      }
      if (status !== 200) {
        return console.log([Date.now() - last, before, status, connection].join("\t"));
      }
      [last, before] = [Date.now(), connection];
      if (n === 20) console.log("busy");
    }
  };
  await Promise.all([1, 2, 3, 4].map(call));
};

await { write: () => post(write), stream: () => post(stream), busy }[how]();
