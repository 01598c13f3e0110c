// Package remote is a worker on another machine, used through the same port as the local one.
// NewHandler answers for a worker.Worker; Client implements worker.Worker over it. Nobody above
// can tell the two from each other, except by the time that a call takes and by connections that
// break, which read CodeUnavailable.
//
// Three kinds of requests go to a worker, all over HTTP/2:
//
//	/stacyvm.worker.v1.WorkerService/...                         lifecycle: see proto/worker/v1
//	/guest/{sandbox}/{incarnation}/{epoch}/{service}/{method}    the guest program's own protocol, passed on as it is
//	/port/{sandbox}/{incarnation}/{epoch}/{service}/{method}     a TCP port of a sandbox, in the guest protocol's words
//
// Each is judged before anything else happens: the credential, the scope that this method needs,
// whether the worker may act at all, and the fence. The package knows no engine and no other
// worker.
package remote
