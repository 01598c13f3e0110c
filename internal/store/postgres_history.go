package store

import (
	"context"
	"database/sql"
	"slices"
	"strings"
)

// pgHistory is how a server is asked for its history: expressions that give a text, an empty one where the server, as managed ones do, refuses
// to tell. The timeline rises with a promotion, and with a restore to a point in time.
type pgHistory struct{ timeline, system string }

// pgFullHistory is that of a server that tells everything.
var pgFullHistory = pgHistory{
	timeline: `substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)`,
	system:   `(SELECT CAST(system_identifier AS TEXT) FROM pg_control_system())`,
}

// lineage names the server's history.
func (h pgHistory) lineage() string { return h.system + ` || '/' || ` + h.timeline }

// blind says what goes unnoticed; "": nothing.
func (h pgHistory) blind() string {
	switch {
	case h.timeline == `''`:
		return "this PostgreSQL does not tell its timeline (pg_walfile_name): a failover that loses commits is not noticed"
	case h.system == `''`:
		return "this PostgreSQL does not tell its identity (pg_control_system): a move of the database to another server is noticed by its timeline alone"
	}
	return ""
}

// readHistory finds out what a server tells.
func readHistory(ctx context.Context, db *sql.DB) (h pgHistory, err error) {
	h = pgFullHistory
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

// learn asks the server, once, and tells what it refuses.
func (s *postgresStore) learn(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, s.patience+s.limit)
	defer cancel()
	for try := 1; ; try++ {
		if s.history, err = readHistory(ctx, s.db); err == nil {
			break
		}
		if !passing(err) || try == postgresTries || !rest(ctx, try) {
			return err
		}
	}
	if blind := s.history.blind(); blind != "" && s.warn != nil {
		s.warn(blind)
	}
	return nil
}

// joinLineage gives what is known of a server's lineage from now on. moved: it is another than before, in a part that was known before
// and is told now; what another user of the database may ask and this one may not is no move.
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
