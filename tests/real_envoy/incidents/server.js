// A server as Node.js makes it, but for how soon it closes idle connections: server.js <port> <milliseconds>
'use strict';
const server = require('http').createServer((request, response) => {
  const [, what, time] = request.url.split('/');
  if (what === 'busy') {
    for (const end = Date.now() + Number(time); Date.now() < end; ) {
      // Its only thread is busy.
    }
  }
  setTimeout(() => response.end('ok'), what === 'later' ? Number(time) : 0);
});
server.keepAliveTimeout = Number(process.argv[3]);
server.keepAliveTimeoutBuffer = 0;
server.listen(Number(process.argv[2]), '127.0.0.1', () => console.log('ready'));
// Whoever started it is gone.
process.stdin.on('end', () => process.exit()).resume();
