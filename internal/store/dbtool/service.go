package dbtool

import (
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store/internal/postgres"
)

// serviceName is the section of the service file.
const serviceName = "stacyvm"

// libpqWords are the settings of a connection string that PostgreSQL's own programs know; those of
// this program's driver, and what is set for a session, are left out.
var libpqWords = []string{
	"host",
	"hostaddr",
	"port",
	"dbname",
	"user",
	"password",
	"connect_timeout",
	"channel_binding",
	"gssencmode",
	"krbsrvname",
	"require_auth",
	"sslcert",
	"sslcrl",
	"sslkey",
	"sslmode",
	"sslpassword",
	"sslrootcert",
	"sslsni",
	"ssl_min_protocol_version",
	"ssl_max_protocol_version",
	"target_session_attrs",
}

// serviceFile writes a connection string as a pg_service.conf, and gives the secrets in it.
func serviceFile(dsn string) (text string, secrets []string, err error) {
	parsed, err := postgres.ParseDSN("database.dsn", dsn)
	if err != nil {
		return "", nil, err
	}
	settings, err := words(dsn)
	if err != nil {
		return "", nil, stacyvm.Invalid("database.dsn", "cannot be handed over to pg_dump")
	}
	for word, value := range map[string]string{ // what the driver found elsewhere, such as in the environment
		"host": parsed.Host, "port": strconv.Itoa(int(parsed.Port)), "dbname": parsed.Database, "user": parsed.User, "password": parsed.Password,
	} {
		if settings[word] == "" && value != "" {
			settings[word] = value
		}
	}
	if strings.Contains(settings["host"], ",") && settings["target_session_attrs"] == "" {
		settings["target_session_attrs"] = "read-write" // as the store does
	}
	var b strings.Builder
	b.WriteString("[" + serviceName + "]\n")
	for _, word := range libpqWords {
		value, ok := settings[word]
		if !ok {
			continue
		}
		if strings.ContainsAny(value, "\r\n\x00") || strings.TrimSpace(value) != value { // the file has no quotes
			return "", nil, stacyvm.Invalid(
				"database.dsn",
				"%s holds characters that cannot be handed over to pg_dump",
				word,
			)
		}
		b.WriteString(word + "=" + value + "\n")
	}
	return b.String(), []string{settings["password"], settings["sslpassword"]}, nil
}

// words takes a connection string apart. parseDSN has accepted it.
func words(dsn string) (map[string]string, error) {
	if strings.HasPrefix(dsn, "postgres://") || strings.HasPrefix(dsn, "postgresql://") {
		return urlWords(dsn)
	}
	return keywordWords(dsn)
}

func urlWords(dsn string) (map[string]string, error) {
	u, err := url.Parse(dsn)
	if err != nil {
		return nil, err
	}
	settings := map[string]string{}
	for word, values := range u.Query() {
		settings[word] = values[len(values)-1]
	}
	set := func(word, value string) {
		if value != "" {
			settings[word] = value
		}
	}
	var hosts, ports []string
	for address := range strings.SplitSeq(u.Host, ",") {
		single := url.URL{Host: address}
		hosts, ports = append(hosts, single.Hostname()), append(ports, single.Port())
	}
	set("host", strings.Join(hosts, ","))
	if slices.ContainsFunc(ports, func(port string) bool { return port != "" }) {
		set("port", strings.Join(ports, ","))
	}
	set("dbname", strings.TrimPrefix(u.Path, "/"))
	set("user", u.User.Username())
	password, _ := u.User.Password()
	set("password", password)
	return settings, nil
}

// keywordWords reads word = value pairs; a value with spaces stands in single quotes, and a
// backslash takes the next character as it is.
func keywordWords(dsn string) (map[string]string, error) {
	settings := map[string]string{}
	for rest := strings.TrimSpace(dsn); rest != ""; rest = strings.TrimSpace(rest) {
		word, after, ok := strings.Cut(rest, "=")
		if !ok {
			return nil, strconv.ErrSyntax
		}
		value, left, err := keywordValue(strings.TrimLeft(after, " \t\r\n"))
		if err != nil {
			return nil, err
		}
		settings[strings.TrimSpace(word)], rest = value, left
	}
	return settings, nil
}

func keywordValue(text string) (value, rest string, err error) {
	quoted := strings.HasPrefix(text, "'")
	if quoted {
		text = text[1:]
	}
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '\\' && i+1 < len(text):
			i++
			b.WriteByte(text[i])
		case quoted && c == '\'':
			return b.String(), text[i+1:], nil
		case !quoted && strings.IndexByte(" \t\r\n", c) >= 0:
			return b.String(), text[i:], nil
		default:
			b.WriteByte(c)
		}
	}
	if quoted {
		return "", "", strconv.ErrSyntax
	}
	return b.String(), "", nil
}
