// Package store keeps rows: sandboxes, leases, workers, audits, exec log and idempotency keys. It knows SQL and the
// vocabulary; it makes no decisions. Statements are written once for both dialects. Time comes from the database only.
//
// Errors: CodeNotFound, CodeConflict (a name or key is taken), CodeStaleEpoch (a fenced write changed nothing),
// CodeStorageFull, CodeUnavailable (also for a context that ended), CodeInternal. No message holds SQL or a path.
package store

import (
	"context"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store/internal/sqldb"
)

// Store is the database. All methods may be called concurrently.
type Store interface {
	// View runs read with a consistent view.
	View(ctx context.Context, read func(Tx) error) error
	// Update runs write in one transaction: all or nothing, durable when it returns nil. write may run more than once
	// (a busy database), so it must have no effect outside the transaction. An error from write rolls back, and so does a
	// context that ends before write returned. Write must not call Update itself: writers may take turns.
	//
	// A sandbox, lease or key that is read by its name stays as it was read until the end, and a Count or Sum too; another list
	// may be out of date before the end. CodeUnavailable may mean that a commit got no answer: whether it took place is then
	// not known.
	Update(ctx context.Context, write func(Tx) error) error
	// Cluster gives this database's identity.
	Cluster(ctx context.Context) (Cluster, error)
	// Watch tells of commits that may hold new events: the channel gets a value soon after each, whichever process made it,
	// and now and then without a cause. At most one value waits in it. It is never closed; it falls silent when ctx ends.
	Watch(ctx context.Context) <-chan struct{}
	// Ping checks that the database answers.
	Ping(ctx context.Context) error
	// Close ends all connections.
	Close() error
}

// Cluster is the identity of a database.
type Cluster = sqldb.Cluster

// Tx is one transaction's view of the tables. It is not safe for concurrent use and ends with the callback.
type Tx interface {
	// Now is the database's clock, the same within a transaction.
	Now(ctx context.Context) (time.Time, error)
	// Cluster is the database's identity, as Store.Cluster gives it.
	Cluster(ctx context.Context) (Cluster, error)
	Sandboxes() Sandboxes
	Leases() Leases
	Workers() Workers
	Audit() Audit
	Idempotency() Idempotency
	AdminAudit() AdminAudit
	Quotas() Quotas
	ProviderConfigs() ProviderConfigs
	Templates() Templates
	Environments() Environments
	Builds() Builds
	Connections() Connections
	Tenants() Tenants
	Members() Members
	Policies() Policies
	JoinTokens() JoinTokens
	Events() Events
}

// Sandboxes are rows with soft delete. Each state that a row enters is appended as an event, in the same transaction.
type Sandboxes interface {
	// Insert writes a new row. CreatedAt and UpdatedAt become the database's now, ExpiresAt now plus Spec.TTL, and later by what
	// passes until the sandbox runs for the first time. CodeConflict: the id exists.
	Insert(ctx context.Context, sandbox stacyvm.Sandbox) (stacyvm.Sandbox, error)
	// InsertHeld is Insert of a row whose worker takes its lease at once, as session and for ttl. Nobody else can know the id
	// yet, so the lease is a new one and the fence's epoch its first. CodeConflict, perhaps only from the Update: the id exists.
	InsertHeld(ctx context.Context, sandbox stacyvm.Sandbox, session string, ttl time.Duration) (stacyvm.Sandbox, error)
	// Get finds a row, tombstones too.
	Get(ctx context.Context, id stacyvm.SandboxID) (stacyvm.Sandbox, error)
	// List gives rows newest first.
	List(ctx context.Context, filter SandboxFilter) ([]stacyvm.Sandbox, error)
	// Count counts what List would give without its limit. In an Update the answer holds until the end among those who
	// count with the same filter: they take turns, so that a limit that all of them keep to is kept exactly.
	Count(ctx context.Context, filter SandboxFilter) (int, error)
	// Apply is the fenced write of an owner's report: it changes the row only when it still carries fence and its state
	// may become change.State. CodeStaleEpoch: another fence; CodeConflict: the state does not allow it.
	Apply(ctx context.Context, id stacyvm.SandboxID, fence stacyvm.Fence, change Change) (stacyvm.Sandbox, error)
	// Want writes what the user wants; it needs no fence. CodeNotFound for a tombstone.
	Want(ctx context.Context, id stacyvm.SandboxID, wish Wish) (stacyvm.Sandbox, error)
}

// SandboxFilter selects rows; the zero value selects all active ones.
type SandboxFilter struct {
	Tenant   string
	Owner    string
	Worker   stacyvm.WorkerID
	Provider string
	States   []stacyvm.State // empty: all but destroyed
	Expired  bool            // only those whose time has passed; not those that are still being created, unless their maker is gone
	Page
}

// Page is a part of a list. Lists are walked by key: rows that come and go meanwhile move no others.
type Page struct {
	Limit int    // at most this many rows; 0: 1,000,000
	After Cursor // continue behind this row; the zero value: from the beginning
	// Until and Skip are for lists by time of creation alone.
	Until Cursor // end with this row; the zero value: with the last one
	Skip  int    // leave out this many rows first
}

// Cursor is a place in a list: the last row that was seen. A list that goes by name or number looks at ID alone.
type Cursor struct {
	CreatedAt time.Time
	ID        string
}

// Change is one fenced change. Nil and empty fields stay as they are.
type Change struct {
	Wanted     stacyvm.Desired // only while this is still wanted; CodeConflict otherwise
	State      stacyvm.State
	Cause      *stacyvm.Cause // replaces the one before; a reason without a time is since now
	RuntimeID  string
	Recovered  bool
	Unenforced []string
}

// Wish is one change of the user's will. Zero fields stay as they are.
type Wish struct {
	Desired stacyvm.Desired
	TTL     time.Duration // new expiry: now plus TTL, or the moment when it first runs plus TTL if that is later
}

// Leases decide who should act; see docs/adr on leases.
type Leases interface {
	// Acquire takes a free or expired lease, or takes it again for the same holder, and raises the epoch. For a sandbox
	// lease it also raises the row's fence and worker. CodeConflict: held by another, or the sandbox is gone; nothing is
	// changed then.
	Acquire(ctx context.Context, request LeaseRequest) (stacyvm.Lease, error)
	// Renew extends all of these that are still held by holder and session, in one statement, and returns them.
	Renew(ctx context.Context, holder stacyvm.WorkerID, session string, held []Held, ttl time.Duration) ([]stacyvm.Lease, error)
	// Release lets go; the row and its epoch stay. CodeNotFound: not the holder.
	Release(ctx context.Context, resource string, holder stacyvm.WorkerID, epoch int64) error
	// Get finds a lease, free ones too.
	Get(ctx context.Context, resource string) (stacyvm.Lease, error)
	// List gives the leases of one holder, or all with an empty holder, by resource.
	List(ctx context.Context, holder stacyvm.WorkerID, page Page) ([]stacyvm.Lease, error)
	// Lapsed counts the sandboxes' leases that have run out and are neither free nor taken over, by holder.
	Lapsed(ctx context.Context) (map[stacyvm.WorkerID]int, error)
}

// LeaseRequest asks for a lease.
type LeaseRequest struct {
	Resource  string
	Type      string
	Holder    stacyvm.WorkerID
	Session   string
	TTL       time.Duration
	Grace     time.Duration // how long past its expiry another's lease is left alone
	Successor bool          // the session is the registered successor of the same worker's earlier one
}

// Held names a lease by its epoch.
type Held struct {
	Resource string
	Epoch    int64
}

// Workers are machines.
type Workers interface {
	// Save registers a worker or its heartbeat; LastHeartbeat becomes the database's now.
	Save(ctx context.Context, worker stacyvm.Worker) (stacyvm.Worker, error)
	// Mark writes a worker's status and capacity, and leaves the time of its heartbeat alone. CodeNotFound.
	Mark(ctx context.Context, worker stacyvm.Worker) (stacyvm.Worker, error)
	// Get finds a worker. CodeNotFound.
	Get(ctx context.Context, id stacyvm.WorkerID) (stacyvm.Worker, error)
	// Hold is Get for a decision about the worker: in an Update it stays as it was read, also when it is not there, until the
	// end among those who hold it. A Save that was not decided so may come between.
	Hold(ctx context.Context, id stacyvm.WorkerID) (stacyvm.Worker, error)
	// List gives all, by id.
	List(ctx context.Context, page Page) ([]stacyvm.Worker, error)
	// Offer is Get for a decision to give a worker one more sandbox: used is what its active ones take. In an Update that holds
	// until the end among those who ask for the same worker: they take turns, so that a limit that all of them keep to is kept
	// exactly. A worker without a limit is not added up, and nobody waits for it. CodeNotFound.
	Offer(ctx context.Context, id stacyvm.WorkerID) (worker stacyvm.Worker, used stacyvm.Usage, err error)
	// Loads adds up what the active sandboxes of each worker take, those alone that were made at a moment or later; a worker
	// without one is not in it. It waits for nobody, not even in an Update: what others are adding meanwhile is not in it.
	Loads(ctx context.Context, since time.Time) (map[stacyvm.WorkerID]stacyvm.Usage, error)
	// Delete forgets a worker. CodeNotFound.
	Delete(ctx context.Context, id stacyvm.WorkerID) error
}

// Audit is append-only.
type Audit interface {
	// AppendOperations writes audit lines; CreatedUS 0 becomes now.
	AppendOperations(ctx context.Context, lines []stacyvm.Operation) error
	// Operations lists lines newest first.
	Operations(ctx context.Context, filter OperationFilter) ([]stacyvm.Operation, error)
	// AppendExecs writes exec log lines.
	AppendExecs(ctx context.Context, lines []stacyvm.ExecRecord) error
	// Execs lists a sandbox's exec log newest first.
	Execs(ctx context.Context, filter ExecFilter) ([]stacyvm.ExecRecord, error)
}

// OperationFilter selects audit lines; empty fields select all.
type OperationFilter struct {
	Actor   string
	Action  string
	Sandbox stacyvm.SandboxID
	Tenant  string
	Limit   int   // 0: 100
	Before  int64 // ID of the last line that was seen
}

// ExecFilter selects lines of one sandbox's exec log.
type ExecFilter struct {
	Sandbox stacyvm.SandboxID
	Limit   int   // 0: 100
	Before  int64 // ID of the last line that was seen
}

// Idempotency keeps the answers to requests that carry a key, for KeyLife.
type Idempotency interface {
	// Begin claims a key. It returns nil when the caller now owns it; the record when the key is known. A claim stays until it
	// is answered or abandoned: whether its request is still under way, the sandbox's row tells.
	Begin(ctx context.Context, claim IdempotencyRecord) (*IdempotencyRecord, error)
	// Finish stores the answer, claim's Status and Body. It changes nothing but the claim for claim's own sandbox. CodeNotFound:
	// there is none.
	Finish(ctx context.Context, claim IdempotencyRecord) error
	// Abandon frees the claim for claim's own sandbox, so that the request can be tried again. An answered key stays.
	Abandon(ctx context.Context, claim IdempotencyRecord) error
	// Purge removes records older than KeyLife and returns their number.
	Purge(ctx context.Context) (int, error)
}

// IdempotencyRecord is one key.
type IdempotencyRecord struct {
	Scope    string // tenant, principal and route
	Key      string
	BodyHash string            // SHA-256 of the canonical body
	Sandbox  stacyvm.SandboxID // that the create made
	Done     bool
	Status   int
	Body     []byte
}
