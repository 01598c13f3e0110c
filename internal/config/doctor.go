package config

// DoctorKeys judges the keys of a server that is about to be used here: with production, weak ones
// fail. Lint judges much more.
func DoctorKeys(c Config, production bool) []Check {
	lint := &linter{c: c, production: production}
	lint.secret("auth.api_key", c.Auth.APIKey)
	const admin = "auth.admin_api_key"
	switch c.Auth.AdminAPIKey {
	case "":
		lint.hard(
			admin,
			"there is no key for admin routes",
			freshSecret+" and keep it in the file that "+admin+"_file names",
		)
	case c.Auth.APIKey:
		lint.hard(admin, "the admin key is the client key", freshSecret+" for "+admin)
	default:
		lint.pass(admin, "is set, and clients have another one")
	}
	lint.adminFallback()
	return lint.checks
}
