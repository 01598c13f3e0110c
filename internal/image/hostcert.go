package image

import (
	"bytes"
	"encoding/pem"
	"io"
	"os"
	"path"
	"strings"
)

// bundles are the files in which distributions keep all certificate authorities; the first one
// that is there counts.
var bundles = []string{
	"etc/ssl/certs/ca-certificates.crt", "etc/pki/tls/certs/ca-bundle.crt", "etc/ssl/ca-bundle.pem",
	"etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "etc/ssl/cert.pem",
}

const (
	certsDir    = "etc/ssl/certs"
	packagedCAs = "/usr/share/ca-certificates/"
	localCAs    = "/usr/local/share/ca-certificates/"
	// maxHostFile is far above the size of any file of /etc that is read.
	maxHostFile = 16 << 20
)

// certificates lets programs check the same servers' certificates as on the host. Only
// certificates are taken, never a key, and no certificate of the host's own (such as
// ssl-cert-snakeoil, which holds its name).
func (h hostSource) certificates(t *tree) {
	for i, name := range bundles {
		content, err := h.read(name)
		if err != nil {
			continue
		}
		content = onlyCertificates(content)
		t.file(bundles[0], 0o644, content)
		if i > 0 {
			t.file(name, 0o644, content)
		}
		break
	}
	if store, err := h.read(certsDir + "/java/cacerts"); err == nil {
		t.file(certsDir+"/java/cacerts", 0o644, store)
	}
	h.certificateLinks(t)
}

// certificateLinks repeats the certificate directory: a link per authority, and links by hash to
// those.
func (h hostSource) certificateLinks(t *tree) {
	entries, err := os.ReadDir(h.path(certsDir))
	if err != nil {
		return
	}
	known, hashes := map[string]bool{}, map[string]string{}
	for _, entry := range entries {
		name := certsDir + "/" + entry.Name()
		to, err := os.Readlink(h.path(name))
		if err != nil || path.Clean(to) != to {
			continue
		}
		switch {
		case strings.HasPrefix(to, packagedCAs):
			t.link(to, name)
		case strings.HasPrefix(to, localCAs): // the bundle has it anyway; its directory is not shown
			content, err := h.read(to)
			if err != nil {
				continue
			}
			t.file(name, 0o644, onlyCertificates(content))
		default:
			hashes[entry.Name()] = to
			continue
		}
		known[entry.Name()] = true
	}
	for name, to := range hashes {
		if known[to] {
			t.link(to, certsDir+"/"+name)
		}
	}
}

// onlyCertificates drops everything but the certificates of a PEM file.
func onlyCertificates(content []byte) []byte {
	var out bytes.Buffer
	for {
		var block *pem.Block
		if block, content = pem.Decode(content); block == nil {
			return out.Bytes()
		}
		if block.Type == "CERTIFICATE" {
			_ = pem.Encode(&out, &pem.Block{Type: block.Type, Bytes: block.Bytes}) // a buffer takes everything
		}
	}
}

// read gives a file of the host, bounded.
func (h hostSource) read(name string) ([]byte, error) {
	file, err := os.Open(h.path(name))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, maxHostFile))
}
