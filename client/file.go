package client

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// FileInfo is what the server says of one file in a sandbox.
type FileInfo struct {
	Path       string    `json:"path"`
	Size       int64     `json:"size"`
	Mode       string    `json:"mode"` // octal, such as "644"
	IsDir      bool      `json:"is_dir"`
	ModTime    time.Time `json:"mod_time"`
	LinkTarget string    `json:"link_target,omitempty"` // of a symbolic link
}

// Permissions gives Mode as a number; ok is false when the server sent something else than octal
// digits.
func (f FileInfo) Permissions() (mode uint32, ok bool) {
	parsed, err := strconv.ParseUint(f.Mode, 8, 32)
	return uint32(parsed), err == nil
}

// UploadOptions of a file; the zero value keeps the mode of a file that exists and makes others
// 0644, owned by the image's user.
type UploadOptions struct {
	Mode uint32 // permission bits
	User string
}

func files(sandbox, verb string) string {
	if verb == "" {
		return pathOf("sandboxes", sandbox, "files")
	}
	return pathOf("sandboxes", sandbox, "files", verb)
}

// Download opens a file. Close it. A connection that breaks gives a read error, never a short file
// without one.
func (c *Client) Download(ctx context.Context, sandbox, path string) (io.ReadCloser, error) {
	response, err := c.send(
		ctx,
		request{method: http.MethodGet, path: files(sandbox, ""), query: url.Values{"path": {path}}, long: true},
	)
	if err != nil {
		return nil, err
	}
	return response.Body, nil
}

// Upload puts a file in place, whole or not at all, and makes missing parents. It is never
// repeated by the client.
func (c *Client) Upload(
	ctx context.Context,
	sandbox, path string,
	body io.Reader,
	options UploadOptions,
) (FileInfo, error) {
	query := url.Values{"path": {path}}
	if options.Mode != 0 {
		query.Set("mode", octal(options.Mode))
	}
	if options.User != "" {
		query.Set("user", options.User)
	}
	var info FileInfo
	if body == nil {
		body = http.NoBody
	}
	err := c.call(
		ctx,
		request{method: http.MethodPut, path: files(sandbox, ""), query: query, raw: body, long: true},
		&info,
	)
	return info, err
}

// Unpacked tells how an archive was unpacked.
type Unpacked struct {
	Entries  uint64 `json:"entries"` // that are in place
	Failed   uint64 `json:"failed"`
	Failures []struct {
		Name   string `json:"name"` // with replacement characters for what is no UTF-8
		Reason string `json:"reason"`
	} `json:"failures"` // the first 100
}

// Records of global headers in a downloaded archive that tell of an entry which is not there or
// not whole: "name: reason".
const (
	OmittedRecord = "STACYVM.omitted" // no archive can hold it
	FailedRecord  = "STACYVM.failed"  // it could not be read
)

// DownloadArchive opens a directory as a tar archive. Close it. It is the sandbox's own work:
// whoever unpacks it must expect anything of it. A connection that breaks gives a read error.
func (c *Client) DownloadArchive(ctx context.Context, sandbox, path string) (io.ReadCloser, error) {
	response, err := c.send(
		ctx,
		request{
			method: http.MethodGet,
			path:   files(sandbox, "archive"),
			query:  url.Values{"path": {path}},
			long:   true,
		},
	)
	if err != nil {
		return nil, err
	}
	return response.Body, nil
}

// UploadArchive unpacks a tar archive into a directory, which is made when it is missing. Each
// file is whole or not there; what one entry meets is in the answer and stops no other. user owns
// what is new; empty: the image's. It is never repeated by the client.
func (c *Client) UploadArchive(
	ctx context.Context,
	sandbox, path string,
	archive io.Reader,
	user string,
) (Unpacked, error) {
	query := url.Values{"path": {path}}
	if user != "" {
		query.Set("user", user)
	}
	var unpacked Unpacked
	err := c.call(
		ctx,
		request{
			method:      http.MethodPut,
			path:        files(sandbox, "archive"),
			query:       query,
			raw:         archive,
			contentType: "application/x-tar",
			long:        true,
		},
		&unpacked,
	)
	return unpacked, err
}

// ListFiles gives a directory's entries, sorted by name.
func (c *Client) ListFiles(ctx context.Context, sandbox, path string) (infos []FileInfo, err error) {
	err = c.ask(ctx, files(sandbox, "list"), url.Values{"path": {path}}, &infos)
	return infos, err
}

// Stat describes a file; a symbolic link itself, not what it points to.
func (c *Client) Stat(ctx context.Context, sandbox, path string) (info FileInfo, err error) {
	err = c.ask(ctx, files(sandbox, "stat"), url.Values{"path": {path}}, &info)
	return info, err
}

// ask reads what may take long and changes nothing.
func (c *Client) ask(ctx context.Context, path string, query url.Values, to any) error {
	return c.call(ctx, request{method: http.MethodGet, path: path, query: query, repeat: true, long: true}, to)
}

// Glob gives the paths that match; `**` crosses directories.
func (c *Client) Glob(ctx context.Context, sandbox, pattern string) (paths []string, err error) {
	err = c.ask(ctx, files(sandbox, "glob"), url.Values{"pattern": {pattern}}, &paths)
	return paths, err
}

// MakeDir makes a directory and its parents; mode 0 is 0755.
func (c *Client) MakeDir(ctx context.Context, sandbox, path string, mode uint32) error {
	body := map[string]string{"path": path}
	if mode != 0 {
		body["mode"] = octal(mode)
	}
	return c.call(
		ctx,
		request{method: http.MethodPost, path: files(sandbox, "mkdir"), body: body, repeat: true, long: true},
		nil,
	)
}

// Move renames a file or directory and makes the target's parents.
func (c *Client) Move(ctx context.Context, sandbox, from, to string) error {
	return c.call(ctx, request{method: http.MethodPost, path: files(sandbox, "move"),
		body: map[string]string{"old_path": from, "new_path": to}, long: true}, nil)
}

// Chmod sets a file's permission bits.
func (c *Client) Chmod(ctx context.Context, sandbox, path string, mode uint32) error {
	return c.call(ctx, request{method: http.MethodPost, path: files(sandbox, "chmod"),
		body: map[string]string{"path": path, "mode": octal(mode)}, repeat: true, long: true}, nil)
}

// Remove deletes a file, or with recursive a directory and all in it.
func (c *Client) Remove(ctx context.Context, sandbox, path string, recursive bool) error {
	query := url.Values{"path": {path}}
	if recursive {
		query.Set("recursive", "true")
	}
	return c.call(ctx, request{method: http.MethodDelete, path: files(sandbox, ""), query: query, long: true}, nil)
}

func octal(mode uint32) string { return fmt.Sprintf("%04o", mode) }
