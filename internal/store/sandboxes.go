package store

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store/internal/sqldb"
	"github.com/stacyvm/stacyvm/internal/store/migrations"
)

// SandboxReader reads sandboxes.
type SandboxReader interface {
	// Get finds a row, tombstones too.
	Get(ctx context.Context, id stacyvm.SandboxID) (stacyvm.Sandbox, error)
	// List gives rows newest first.
	List(ctx context.Context, filter SandboxFilter) ([]stacyvm.Sandbox, error)
}

// Sandboxes are rows with soft delete. Each state that a row enters is appended as an event, in
// the same transaction.
type Sandboxes interface {
	// Insert writes a new row. CreatedAt and UpdatedAt become the database's now, ExpiresAt now
	// plus Spec.TTL, and later by what passes until the sandbox runs for the first time.
	// CodeConflict: the id exists.
	Insert(ctx context.Context, sandbox stacyvm.Sandbox) (stacyvm.Sandbox, error)
	// InsertHeld is Insert of rows whose worker takes their leases at once, as session and for ttl.
	// Nobody else can know their ids yet, so the leases are new ones and the fences' epochs their
	// first. CodeConflict, perhaps only from the Update: an id exists.
	InsertHeld(
		ctx context.Context,
		session string,
		ttl time.Duration,
		sandboxes ...stacyvm.Sandbox,
	) ([]stacyvm.Sandbox, error)
	SandboxReader
	// Count counts what List would give without its limit. In an Update the answer holds until the
	// end among those who count with the same filter: they take turns, so that a limit that all of
	// them keep to is kept exactly.
	Count(ctx context.Context, filter SandboxFilter) (int, error)
	// Apply is the fenced write of an owner's report: it changes the row only when it still
	// carries fence and its state may become change.State. CodeStaleEpoch: another fence;
	// CodeConflict: the state does not allow it.
	Apply(ctx context.Context, id stacyvm.SandboxID, fence stacyvm.Fence, change Change) (stacyvm.Sandbox, error)
	// Start is Apply to StateRunning of many, as long as they are wanted. It gives those that it
	// changed; Apply tells what is the matter with another.
	Start(ctx context.Context, started []Started) ([]stacyvm.Sandbox, error)
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
	// only those whose time has passed; not those that are still being created, unless their maker
	// is gone
	Expired bool
	Page
}

// Change is one fenced change. Nil and empty fields stay as they are.
type Change struct {
	Wanted     stacyvm.Desired // only while this is still wanted; CodeConflict otherwise
	State      stacyvm.State
	Cause      *stacyvm.Cause // replaces the one before; a reason without a time is since now
	RuntimeID  string
	Recovered  bool
	Unenforced []stacyvm.Limit
}

// Started is how the create of a sandbox ended well.
type Started struct {
	ID         stacyvm.SandboxID
	Fence      stacyvm.Fence
	RuntimeID  string
	Unenforced []stacyvm.Limit
}

// Wish is one change of the user's will. Zero fields stay as they are.
type Wish struct {
	Desired stacyvm.Desired
	TTL     time.Duration // new expiry: now plus TTL, or the moment when it first runs plus TTL if that is later
}

// sandboxes implements Sandboxes.
type sandboxes struct{ tx }

const sandboxColumns = `id, state, reason, detail, since_us, desired, provider, image, spec, owner_id, tenant_id, worker_id,
	incarnation, fence, runtime_id, recovered, unenforced, metadata, created_us, updated_us, expires_us`

func readSandbox(row sqldb.Scanner) (s stacyvm.Sandbox, err error) {
	var spec, unenforced, metadata string
	var since, created, updated, expires int64
	err = row.Scan(
		(*string)(&s.ID), // as they are for drivers, which would look for that by reflection
		(*string)(&s.State),
		(*string)(&s.Reason),
		&s.Detail,
		&since,
		(*string)(&s.Desired),
		&s.Provider,
		&s.Image,
		&spec,
		&s.OwnerID,
		&s.TenantID,
		(*string)(&s.WorkerID),
		&s.Fence.Incarnation,
		&s.Fence.Epoch,
		&s.RuntimeID,
		&s.Recovered,
		&unenforced,
		&metadata,
		&created,
		&updated,
		&expires,
	)
	if err != nil {
		return s, err
	}
	s.CreatedAt, s.UpdatedAt, s.ExpiresAt = fromUS(created), fromUS(updated), fromUS(expires)
	if since != 0 {
		s.Since = fromUS(since)
	}
	if s.Spec, err = decodeSpec(spec); err != nil {
		return s, err
	}
	if s.Metadata, err = decodeTexts(metadata); err != nil || unenforced == "null" {
		return s, err
	}
	return s, unpack(&unenforced, &s.Unenforced)
}

// Insert implements Sandboxes.
func (t sandboxes) Insert(ctx context.Context, s stacyvm.Sandbox) (stacyvm.Sandbox, error) {
	now, err := t.NowUS(ctx)
	if err != nil {
		return s, err
	}
	born(&s, now)
	var c clause
	values := c.list(rowOf(s)...)
	changed, err := t.Exec(ctx, insertInto+values+` ON CONFLICT (id) DO NOTHING`, c.args...)
	if err != nil {
		return s, err
	}
	if changed == 0 {
		return s, stacyvm.Errorf(stacyvm.CodeConflict, "sandbox %s exists already", s.ID)
	}
	return s, t.publish(ctx, s)
}

// InsertHeld implements Sandboxes.
func (t sandboxes) InsertHeld(
	ctx context.Context,
	session string,
	ttl time.Duration,
	sandboxes ...stacyvm.Sandbox,
) ([]stacyvm.Sandbox, error) {
	now, err := t.NowUS(ctx)
	if err != nil {
		return nil, err
	}
	rows := slices.Clone(sandboxes)
	told := make([]stacyvm.Event, len(rows))
	for i := range rows {
		rows[i].Fence.Epoch = 1
		born(&rows[i], now)
		told[i] = rows[i].Event()
	}
	for part := range inParts(rows) {
		var held, inserted clause
		for _, s := range part {
			held.parts = append(
				held.parts,
				held.list(string(s.ID), typeSandbox, string(s.WorkerID), session, s.Fence.Epoch,
					int64(1), now+ttl.Microseconds()),
			)
			inserted.parts = append(inserted.parts, inserted.list(rowOf(s)...))
		}
		err := t.Later(
			ctx,
			`INSERT INTO leases (`+leaseColumns+`) VALUES `+strings.Join(held.parts, ", "),
			held.args...)
		if err == nil {
			err = t.Later(ctx, insertInto+strings.Join(inserted.parts, ", "), inserted.args...)
		}
		if err != nil {
			return nil, err
		}
	}
	return rows, events(t).Append(ctx, told)
}

const insertInto = `INSERT INTO sandboxes (` + sandboxColumns + `, due_us) VALUES `

// born sets the times of a new row.
func born(s *stacyvm.Sandbox, now int64) {
	s.CreatedAt, s.UpdatedAt, s.ExpiresAt = fromUS(now), fromUS(now), fromUS(now+s.Spec.TTL.Microseconds())
	s.Cause = dated(s.Cause, now)
}

// rowOf gives the values of a row, in the order of insertInto.
func rowOf(s stacyvm.Sandbox) []any {
	created, updated, expires := s.CreatedAt.UnixMicro(), s.UpdatedAt.UnixMicro(), s.ExpiresAt.UnixMicro()
	return []any{
		string(s.ID),
		string(s.State),
		string(s.Reason),
		s.Detail,
		sinceUS(s.Cause),
		string(s.Desired),
		s.Provider,
		s.Image,
		packed(s.Spec),
		s.OwnerID,
		s.TenantID,
		string(s.WorkerID),
		s.Fence.Incarnation,
		s.Fence.Epoch,
		s.RuntimeID,
		s.Recovered,
		packed(s.Unenforced),
		packed(s.Metadata),
		created,
		updated,
		expires,
		expires,
	}
}

// dated gives a cause its time: now, unless it is known or there is no cause.
func dated(cause stacyvm.Cause, now int64) stacyvm.Cause {
	switch {
	case !cause.Since.IsZero():
		cause.Since = fromUS(cause.Since.UnixMicro())
	case cause.Reason != "":
		cause.Since = fromUS(now)
	}
	return cause
}

// sinceUS is a cause's time as the column holds it: 0 for none.
func sinceUS(cause stacyvm.Cause) int64 {
	if cause.Since.IsZero() {
		return 0
	}
	return cause.Since.UnixMicro()
}

// changedUS sets updated_us to now, or just beyond what it was: each change of a row under one
// fence gives it another version.
const changedUS = `updated_us = CASE WHEN updated_us < %s THEN %s ELSE updated_us + 1 END`

// move gives a row that is changed its version. Changes that follow each other in one transaction
// have one.
func (t sandboxes) move(c *clause, id stacyvm.SandboxID, now string) {
	if ids := t.Touched.IDs; len(ids) > 0 && ids[len(ids)-1] == string(id) {
		c.parts = append(c.parts, `updated_us = CASE WHEN updated_us < `+now+` THEN `+now+` ELSE updated_us END`)
		return
	}
	c.parts = append(c.parts, fmt.Sprintf(changedUS, now, now))
}

// touch tells of a row that was changed.
func (t sandboxes) touch(id stacyvm.SandboxID) {
	t.Touched.Add(sqldb.Touched{IDs: []string{string(id)}})
}

// publish appends the event of the state that a row has just entered. It stands here so that no
// change of state goes without one.
func (t sandboxes) publish(ctx context.Context, s stacyvm.Sandbox) error {
	return events(t).Append(ctx, []stacyvm.Event{s.Event()})
}

// Get implements Sandboxes.
func (t sandboxes) Get(ctx context.Context, id stacyvm.SandboxID) (stacyvm.Sandbox, error) {
	s, ok, err := sqldb.One(
		ctx,
		t.Tx,
		readSandbox,
		`SELECT `+sandboxColumns+` FROM sandboxes WHERE id = $1`+t.RowLock(),
		string(id),
	)
	if err == nil && !ok {
		return s, noSandbox(id)
	}
	return s, err
}

// List implements Sandboxes.
func (t sandboxes) List(ctx context.Context, filter SandboxFilter) ([]stacyvm.Sandbox, error) {
	c, err := t.filter(ctx, filter)
	if err != nil {
		return nil, err
	}
	text := `SELECT ` + sandboxColumns + ` FROM sandboxes` + c.newest(filter.Page)
	return sqldb.All(ctx, t.Tx, readSandbox, text, c.args...)
}

// Count implements Sandboxes.
func (t sandboxes) Count(ctx context.Context, filter SandboxFilter) (int, error) {
	c, err := t.filter(ctx, filter)
	if err != nil {
		return 0, err
	}
	if err := t.AdvisoryLock(ctx, fmt.Sprint("count of sandboxes", c.where(), c.args)); err != nil {
		return 0, err
	}
	n, _, err := sqldb.One(ctx, t.Tx, sqldb.ScanInt, `SELECT count(*) FROM sandboxes`+c.where(), c.args...)
	return int(n), err
}

// filter turns a filter into conditions.
func (t sandboxes) filter(ctx context.Context, f SandboxFilter) (*clause, error) {
	var c clause
	if !wantsTombstones(f.States) {
		c.add(migrations.ActiveSandbox)
	}
	if len(f.States) > 0 {
		states := make([]any, len(f.States))
		for i, state := range f.States {
			states[i] = string(state)
		}
		c.parts = append(c.parts, `state IN `+c.list(states...))
	}
	c.equal(`worker_id`, string(f.Worker))
	c.named(`owner_id`, f.Owner)
	c.named(`tenant_id`, f.Tenant)
	c.equal(`provider`, f.Provider)
	if f.Expired {
		now, err := t.NowUS(ctx)
		if err != nil {
			return nil, err
		}
		c.add(
			`due_us <= %s AND expires_us <= %s AND (state <> '`+string(stacyvm.StateCreating)+`' OR updated_us <= %s)`,
			now,
			now,
			now-stacyvm.CreateAbandonedAfter.Microseconds(),
		)
	}
	return &c, nil
}

func wantsTombstones(states []stacyvm.State) bool {
	for _, state := range states {
		if !state.Active() {
			return true
		}
	}
	return false
}

// Apply implements Sandboxes.
func (t sandboxes) Apply(
	ctx context.Context,
	id stacyvm.SandboxID,
	fence stacyvm.Fence,
	change Change,
) (stacyvm.Sandbox, error) {
	var c clause
	now, err := t.NowTerm(ctx, c.arg)
	if err != nil {
		return stacyvm.Sandbox{}, err
	}
	t.move(&c, id, now)
	if change.State != "" {
		c.add(`state = %s`, string(change.State))
	}
	if change.State == stacyvm.StateRunning { // the time until it ran does not count
		c.parts = append(c.parts,
			`expires_us = expires_us + CASE WHEN state = '`+string(stacyvm.StateCreating)+`' THEN `+now+
				` - created_us ELSE 0 END`)
	}
	if cause := change.Cause; cause != nil {
		c.add(`reason = %s`, string(cause.Reason))
		c.add(`detail = %s`, cause.Detail)
		if cause.Reason != "" && cause.Since.IsZero() {
			c.parts = append(c.parts, `since_us = `+now)
		} else {
			c.add(`since_us = %s`, sinceUS(*cause))
		}
	}
	if change.RuntimeID != "" {
		c.add(`runtime_id = %s`, change.RuntimeID)
	}
	if change.Recovered {
		c.add(`recovered = %s`, true)
	}
	if change.Unenforced != nil {
		c.add(`unenforced = %s`, packed(change.Unenforced))
	}
	set := strings.Join(c.parts, ", ")
	c.parts = nil
	c.add(`id = %s AND incarnation = %s AND fence = %s`, string(id), fence.Incarnation, fence.Epoch)
	c.parts = append(c.parts, permitting(&c, change.State))
	c.equal(`desired`, string(change.Wanted))
	row, ok, err := sqldb.One(
		ctx,
		t.Tx,
		readSandbox,
		`UPDATE sandboxes SET `+set+c.where()+` RETURNING `+sandboxColumns,
		c.args...)
	if ok {
		t.touch(id)
	}
	switch {
	case err != nil:
		return row, err
	case ok && change.State != "":
		return row, t.publish(ctx, row)
	case ok:
		return row, nil
	}
	return row, t.refused(ctx, id, fence, change.State)
}

// Start implements Sandboxes.
func (t sandboxes) Start(ctx context.Context, started []Started) (running []stacyvm.Sandbox, err error) {
	var told []stacyvm.Event
	for part := range inParts(started) {
		var c clause
		now, err := t.NowTerm(ctx, c.arg)
		if err != nil {
			return nil, err
		}
		var rows []string
		for _, s := range part {
			unenforced := any(nil)
			if s.Unenforced != nil {
				unenforced = packed(s.Unenforced)
			}
			rows = append(rows, fmt.Sprintf(
				`(CAST(%s AS TEXT), CAST(%s AS BIGINT), CAST(%s AS BIGINT), CAST(%s AS TEXT), CAST(%s AS TEXT))`,
				c.arg(
					string(s.ID),
				),
				c.arg(s.Fence.Incarnation),
				c.arg(s.Fence.Epoch),
				c.arg(s.RuntimeID),
				c.arg(unenforced),
			))
		}
		text := `
			WITH started (sandbox, era, term, runtime, lacks) AS (VALUES ` + strings.Join(rows, ", ") + `)
			UPDATE sandboxes SET state = '` + string(stacyvm.StateRunning) + `', ` + fmt.Sprintf(changedUS, now, now) + `,
				expires_us = expires_us +
					CASE WHEN state = '` + string(stacyvm.StateCreating) + `' THEN ` + now + ` - created_us ELSE 0 END,
				runtime_id = CASE WHEN started.runtime <> '' THEN started.runtime ELSE runtime_id END,
				unenforced = coalesce(started.lacks, unenforced)
			FROM started
			WHERE id = started.sandbox AND incarnation = started.era AND fence = started.term
				AND ` + permitting(&c, stacyvm.StateRunning) + ` AND desired = '` + string(stacyvm.DesiredRunning) + `'
			RETURNING ` + sandboxColumns
		changed, err := sqldb.All(ctx, t.Tx, readSandbox, text, c.args...)
		if err != nil {
			return nil, err
		}
		for _, s := range changed {
			running, told = append(running, s), append(told, s.Event())
			t.touch(s.ID)
		}
	}
	return running, events(t).Append(ctx, told)
}

// permitting is the condition on the present state for a change to next; without a next state any
// live one will do.
func permitting(c *clause, next stacyvm.State) string {
	if next == "" {
		return migrations.ActiveSandbox
	}
	var from []any
	for _, state := range next.Before() {
		from = append(from, string(state))
	}
	if len(from) == 0 {
		return `1 = 0`
	}
	return `state IN ` + c.list(from...)
}

// refused says why a fenced write changed nothing.
func (t sandboxes) refused(ctx context.Context, id stacyvm.SandboxID, fence stacyvm.Fence, next stacyvm.State) error {
	row, err := t.Get(ctx, id)
	switch {
	case err != nil:
		return err
	case row.Fence != fence:
		return stacyvm.Errorf(stacyvm.CodeStaleEpoch, "sandbox %s has another owner", id)
	case next == "":
		return stacyvm.Errorf(stacyvm.CodeConflict, "sandbox %s is %s", id, row.State)
	}
	return stacyvm.Errorf(stacyvm.CodeConflict, "sandbox %s is %s and cannot become %s", id, row.State, next)
}

// Want implements Sandboxes.
func (t sandboxes) Want(ctx context.Context, id stacyvm.SandboxID, wish Wish) (stacyvm.Sandbox, error) {
	var c clause
	now, err := t.NowTerm(ctx, c.arg)
	if err != nil {
		return stacyvm.Sandbox{}, err
	}
	t.move(&c, id, now)
	if wish.Desired != "" {
		c.add(`desired = %s`, string(wish.Desired))
	}
	if wish.TTL != 0 {
		// Until it runs its time counts from its creation, and is moved when it does.
		expires := ` = CASE WHEN state = '` + string(
			stacyvm.StateCreating,
		) + `' THEN created_us ELSE ` + now + ` END + ` +
			c.arg(
				wish.TTL.Microseconds(),
			)
		c.parts = append(c.parts, `expires_us`+expires, `due_us`+expires)
	}
	set := strings.Join(c.parts, ", ")
	row, ok, err := sqldb.One(
		ctx,
		t.Tx,
		readSandbox,
		`UPDATE sandboxes SET `+set+` WHERE id = `+c.arg(
			string(id),
		)+` AND `+migrations.ActiveSandbox+` RETURNING `+sandboxColumns,
		c.args...)
	if err == nil && !ok {
		return row, noSandbox(id)
	}
	t.touch(id)
	return row, err
}

func noSandbox(id stacyvm.SandboxID) error {
	return stacyvm.Errorf(stacyvm.CodeNotFound, "sandbox %.64q does not exist", string(id))
}
