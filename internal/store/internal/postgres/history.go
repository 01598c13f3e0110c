package postgres

import (
	"context"
	"database/sql"
	"slices"
	"strings"
)

// History is how a server is asked for its history: expressions that give a text, an empty one
// where the server, as managed ones do, refuses to tell. The timeline rises with a promotion, and
// with a restore to a point in time.
type History struct{ timeline, system string }

// fullHistory is that of a server that tells everything.
var fullHistory = History{
	timeline: `substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)`,
	system:   `(SELECT CAST(system_identifier AS TEXT) FROM pg_control_system())`,
}

// lineage names the server's history.
func (h History) lineage() string { return h.system + ` || '/' || ` + h.timeline }

// Blind says what goes unnoticed; "": nothing.
func (h History) Blind() string {
	switch {
	case h.timeline == `''`:
		return "this PostgreSQL does not tell its timeline (pg_walfile_name): a failover that loses commits is not noticed"
	case h.system == `''`:
		return "this PostgreSQL does not tell its identity (pg_control_system): a move of the database to another server is noticed by its timeline alone"
	}
	return ""
}

// ReadHistory finds out what a server tells.
func ReadHistory(ctx context.Context, db *sql.DB) (h History, err error) {
	h = fullHistory
	for _, expression := range []*string{&h.timeline, &h.system} {
		var text string
		err := db.QueryRowContext(ctx, `SELECT `+*expression).Scan(&text)
		switch {
		case slices.Contains([]string{pgNoRight, pgNoFunction, pgUnsupported}, pgState(err)):
			*expression = `''`
		case err != nil:
			return h, err
		}
	}
	return h, nil
}

// joinLineage gives what is known of a server's lineage from now on. moved: it is another than
// before, in a part that was known before and is told now; what another user of the database may
// ask and this one may not is no move.
func joinLineage(before, told string) (now string, moved bool) {
	oldSystem, oldTimeline, _ := strings.Cut(before, "/")
	system, timeline, _ := strings.Cut(told, "/")
	part := func(old, told string) string {
		if told == "" {
			return old
		}
		moved = moved || old != "" && old != told
		return told
	}
	return part(oldSystem, system) + "/" + part(oldTimeline, timeline), moved
}
