package cluster

import (
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// What a worker says of itself is shown to administrators, matched with what sandboxes ask for,
// and called by every control plane with credentials. It is judged before any of that.

const (
	maxSession   = 128
	maxHostname  = 255
	maxOffered   = 64 // providers, capabilities, labels
	maxOfferName = 64
	maxDomain    = 253
	maxProblems  = 16
	maxProblem   = 512
)

// check judges what a heartbeat says. CodeInvalid names the field.
func (b Beat) check() error {
	if !b.ID.Valid() {
		return stacyvm.Invalid("worker", "an id is 1 to 64 letters, digits, '.', '_' or '-'")
	}
	if !b.Status.Valid() {
		return stacyvm.Invalid("status", "%.40q is none of starting, online, draining, offline and unhealthy",
			b.Status)
	}
	if b.Register && b.Session == "" {
		return stacyvm.Invalid("session", "is needed to register")
	}
	for _, err := range []error{
		checkWord("session", b.Session, maxSession),
		checkWord("hostname", b.Hostname, maxHostname),
		checkOffered("providers", b.Providers),
		checkOffered("capabilities", b.Capabilities),
		stacyvm.CheckLabels("capacity.labels", b.Capacity.Labels, maxOffered),
		checkRPCURL(b.Capacity.RPCURL),
		checkDomain(b.Capacity.PreviewDomain),
		checkProblems(b.Problems),
	} {
		if err != nil {
			return err
		}
	}
	return nil
}

// checkWord refuses what cannot be printed as one word; an empty one is none.
func checkWord(field, text string, limit int) error {
	if len(text) > limit || !stacyvm.PlainWord(text) {
		return stacyvm.Invalid(field, "must be printable text of at most %d bytes without white space", limit)
	}
	return nil
}

func checkOffered(field string, names []string) error {
	if len(names) > maxOffered {
		return stacyvm.Invalid(field, "%d are over %d", len(names), maxOffered)
	}
	for _, name := range names {
		if err := checkWord(field, name, maxOfferName); err != nil {
			return err
		}
	}
	return nil
}

// checkProblems takes sentences that can be printed on one line.
func checkProblems(problems []string) error {
	const field = "problems"
	if len(problems) > maxProblems {
		return stacyvm.Invalid(field, "%d are over %d", len(problems), maxProblems)
	}
	for _, problem := range problems {
		unprintable := strings.ContainsFunc(problem, func(r rune) bool { return !unicode.IsPrint(r) })
		if len(problem) > maxProblem || !utf8.ValidString(problem) || unprintable {
			return stacyvm.Invalid(field, "must be printable text of at most %d bytes", maxProblem)
		}
	}
	return nil
}

// metadataNames are names of addresses where clouds keep a machine's secrets.
var metadataNames = []string{"metadata", "instance-data", "metadata.google.internal", "metadata.goog",
	"metadata.azure.internal", "metadata.tencentyun.com"}

// checkRPCURL takes http or https to one host and port, and nothing beside: a control plane sends
// its credential there. What a name leads to is judged when it is dialled.
func checkRPCURL(address string) error {
	const field = "capacity.rpc_url"
	if address == "" {
		return nil
	}
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || !stacyvm.PlainWord(address) {
		return stacyvm.Invalid(field, "must be http://host:port or https://host:port")
	}
	host := u.Hostname()
	if address != u.Scheme+"://"+u.Host || host == "" || strings.HasSuffix(u.Host, ":") {
		return stacyvm.Invalid(field, "holds more, or less, than a scheme, a host and a port")
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return stacyvm.Invalid(field, "%.20q is no port", port)
		}
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		if stacyvm.NoWorkerAddress(ip) {
			return stacyvm.Invalid(field, "%s is an address that no worker has: link-local, of many machines, "+
				"or a cloud's metadata", ip)
		}
		return nil
	}
	if slices.Contains(metadataNames, strings.ToLower(strings.TrimSuffix(host, "."))) {
		return stacyvm.Invalid(field, "%.64q is a cloud's metadata", host)
	}
	return checkHost(field, host)
}

func checkDomain(domain string) error {
	if domain == "" {
		return nil
	}
	return checkHost("capacity.preview_domain", domain)
}

var (
	hostLabel = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?$`)
	// numeric is a last label that a resolver may take for a part of an IPv4 address, such as
	// 0xa9fea9fe.
	numeric = regexp.MustCompile(`^([0-9]+|0[xX][0-9A-Fa-f]*)$`)
)

// checkHost takes names as the DNS has them, but none that a resolver reads as an address in
// disguise.
func checkHost(field, host string) error {
	labels := strings.Split(strings.TrimSuffix(host, "."), ".")
	if len(host) > maxDomain || numeric.MatchString(labels[len(labels)-1]) ||
		slices.ContainsFunc(labels, func(label string) bool { return !hostLabel.MatchString(label) }) {
		return stacyvm.Invalid(field, "%.64q is no host's name", host)
	}
	return nil
}
