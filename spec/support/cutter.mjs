// A proxy that fails on order: it carries HTTP between a client and one server byte for byte, until a rule says
// otherwise. Usage: node cutter.mjs HOST:PORT of the server; prints its own port. Rules are ordered with POST /_rules
// [{match (a piece of the request line), times (1), …}, …], each for the next requests that match; of these
//   up: n        the server gets n bytes of the request, then both sides a reset
//   down: n      the client gets n bytes of the answer, then both sides a reset; with `fin` an orderly end
//   answer: {status, headers, body}   what the client gets; the server hears nothing
//   swap, alter: [from, to]   a change in the request, in the answer
// and `gate`: the answer waits for POST /_open. POST /_seen gives, and forgets, the request lines that were met.
import net from "node:net";

const [host, port] = process.argv[2].split(":");
let rules = [];
let seen = [];
let waiting = [];

function take(line) {
  const rule = rules.find((r) => (r.times ??= 1) > 0 && line.includes(r.match));
  if (rule) rule.times -= 1;
  return rule ?? {};
}

function response({ status, headers = {}, body = "" }) {
  const lines = Object.entries({ "content-length": Buffer.byteLength(body), ...headers }).map(([k, v]) => `${k}: ${v}\r\n`);
  return `HTTP/1.1 ${status} Answer\r\n${lines.join("")}\r\n${body}`;
}

function control(line, body) {
  const value = { seen, waiting: waiting.length };
  if (line.startsWith("POST /_rules")) [rules, waiting] = [JSON.parse(body), []];
  if (line.startsWith("POST /_open")) waiting.splice(0).forEach((open) => open());
  if (line.startsWith("POST /_seen")) seen = [];
  if (line.startsWith("POST /_end")) process.exit(0);
  return response({ status: 200, body: JSON.stringify(value) });
}

class Link {
  constructor(client) {
    this.client = client;
    this.server = net.connect(port, host);
    this.pending = Buffer.alloc(0);
    this.left = 0; // bytes of the request that are to come
    this.rule = {};
    client.on("data", (part) => {
      this.pending = Buffer.concat([this.pending, part]);
      this.carry();
    });
    this.server.on("data", (part) => this.answer(part));
    for (const [one, other] of [[client, this.server], [this.server, client]]) {
      one.on("error", () => other.destroy());
      one.on("close", () => other.destroy());
    }
  }

  reset() {
    this.is_over = true;
    this.server.resetAndDestroy();
    if (this.rule.fin) this.client.end();
    else this.client.resetAndDestroy();
  }

  // The head of the next request, when it is there.
  begin() {
    const end = this.pending.indexOf("\r\n\r\n");
    if (end < 0) return false;
    let head = this.pending.subarray(0, end + 4).toString("latin1");
    this.line = head.slice(0, head.indexOf("\r\n"));
    const length = Number(/\r\ncontent-length: *(\d+)/i.exec(head)?.[1] ?? 0);
    if (!this.line.includes(" /_")) {
      seen.push(this.line);
      this.rule = take(this.line);
    }
    if (this.rule.swap) head = head.replace(new RegExp(this.rule.swap[0], "i"), this.rule.swap[1]);
    this.pending = Buffer.concat([Buffer.from(head, "latin1"), this.pending.subarray(end + 4)]);
    this.left = head.length + length;
    this.body = length;
    this.sent = this.got = 0;
    return true;
  }

  carry() {
    while (!this.is_over && this.pending.length > 0 && (this.left > 0 || this.begin())) {
      const is_control = this.line.includes(" /_");
      if (is_control && this.pending.length < this.left) return;
      const part = this.pending.subarray(0, this.left);
      this.pending = this.pending.subarray(part.length);
      this.left -= part.length;
      if (is_control) this.client.write(control(this.line, part.subarray(part.length - this.body).toString()));
      else if (this.rule.answer) this.left === 0 && this.give(this.rule.answer);
      else this.forward(part);
    }
  }

  give(answer) {
    const write = () => this.client.write(response(answer));
    if (this.rule.gate) waiting.push(write);
    else write();
  }

  forward(part) {
    const room = this.rule.up === undefined ? Infinity : this.rule.up - this.sent;
    this.sent += part.length;
    if (part.length < room) return this.server.write(part);
    this.is_over = true;
    if (room > 0) this.server.write(part.subarray(0, room), () => this.reset());
    else this.reset();
  }

  answer(part) {
    if (this.is_over) return;
    if (this.rule.alter) {
      part = Buffer.from(part.toString("latin1").replace(new RegExp(this.rule.alter[0], "i"), this.rule.alter[1]), "latin1");
    }
    const room = this.rule.down === undefined ? Infinity : this.rule.down - this.got;
    this.got += part.length;
    if (part.length < room) return this.client.write(part);
    this.is_over = true;
    if (room > 0) this.client.write(part.subarray(0, room), () => this.reset());
    else this.reset();
  }
}

const server = net.createServer((client) => new Link(client));
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
