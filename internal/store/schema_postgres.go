package store

import "context"

func inspectPostgres(ctx context.Context, config Config) (Schema, error) {
	config.MaxOpenConns = 1
	db, password, err := connectPostgres(config)
	if err != nil {
		return Schema{}, err
	}
	defer db.Close()
	ctx, cancel := context.WithTimeout(ctx, config.connectTimeout()+config.queryTimeout())
	defer cancel()
	d := postgresDialect(password)
	history, err := readHistory(ctx, db)
	if err != nil {
		return Schema{}, blame(ctx, d, err)
	}
	s, err := schemaOf(ctx, d, db, schemaQueries{
		server: `SELECT 'PostgreSQL ' || current_setting('server_version')`,
		tables: `SELECT CAST(table_name AS TEXT) FROM information_schema.tables WHERE table_schema = current_schema()`,
		rights: `SELECT coalesce(has_schema_privilege(current_user, current_schema(), 'CREATE'), false)`,
	})
	s.Blind = history.blind()
	return s, err
}
