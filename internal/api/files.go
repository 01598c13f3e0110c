package api

import (
	"context"
	"io"
	"mime"
	"net/http"
	"reflect"
	"strconv"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/stacyvm/stacyvm/internal/budget"
	"github.com/stacyvm/stacyvm/internal/control"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// FileInfo tells of one file in a sandbox.
type FileInfo struct {
	Path       string `json:"path"`
	Size       uint64 `json:"size"`
	Mode       string `json:"mode" doc:"Octal." example:"644"`
	IsDir      bool   `json:"is_dir"`
	ModTime    string `json:"mod_time" example:"2006-01-02T15:04:05Z"`
	LinkTarget string `json:"link_target,omitempty" doc:"Of a symbolic link."`
}

func fileInfoOf(info stacyvm.FileInfo) FileInfo {
	return FileInfo{
		Path: info.Path, Size: info.Size, Mode: strconv.FormatUint(uint64(info.Mode), 8), IsDir: info.IsDir,
		ModTime: info.ModifiedAt.UTC().Format("2006-01-02T15:04:05Z"), LinkTarget: info.LinkTarget,
	}
}

// FilePath is the input of routes about one file.
type FilePath struct {
	SandboxPath
	Path string `query:"path" required:"true" maxLength:"4096" doc:"A relative one starts at /workspace."`
}

type listFilesInput struct {
	SandboxPath
	Path string `query:"path" default:"/" maxLength:"4096"`
}

type globInput struct {
	SandboxPath
	Pattern string `query:"pattern" required:"true" maxLength:"4096" doc:"** crosses directories." example:"/workspace/**/*.py"`
}

type removeInput struct {
	FilePath
	Recursive bool `query:"recursive" doc:"A directory and all below it."`
}

type writeInput struct {
	SandboxPath
	ContentType string `header:"Content-Type" hidden:"true"`

	body io.Reader
}

// Resolve implements huma.Resolver: the body is decoded as it comes.
func (in *writeInput) Resolve(c huma.Context) []error {
	in.body = c.BodyReader()
	return nil
}

type uploadInput struct {
	FilePath
	Mode string `query:"mode" maxLength:"8" doc:"Octal; 0644, or what the file had."`
	User string `query:"user" maxLength:"128" doc:"Owner of a new file; the image's user when empty."`

	content io.Reader
}

// Resolve implements huma.Resolver: the content is read as it comes.
func (in *uploadInput) Resolve(c huma.Context) []error {
	in.content = c.BodyReader()
	return nil
}

type moveInput struct {
	SandboxPath
	Body struct {
		OldPath string `json:"old_path" minLength:"1" maxLength:"4096"`
		NewPath string `json:"new_path" minLength:"1" maxLength:"4096"`
	}
}

type chmodInput struct {
	SandboxPath
	Body struct {
		Path string `json:"path" minLength:"1" maxLength:"4096"`
		Mode string `json:"mode" minLength:"1" maxLength:"8" doc:"Octal." example:"755"`
	}
}

type makeDirInput struct {
	SandboxPath
	Body struct {
		Path string `json:"path" minLength:"1" maxLength:"4096"`
		Mode string `json:"mode,omitempty" maxLength:"8" doc:"Octal; 0755 when empty."`
	}
}

const tagFiles = "files"

func (a *api) fileRoutes() {
	const files = "/sandboxes/{id}/files"
	binary := map[string]*huma.MediaType{
		"application/octet-stream": {Schema: &huma.Schema{Type: "string", Format: "binary"}},
	}
	register(
		a,
		route{
			method:    http.MethodGet,
			path:      files,
			id:        "download",
			tag:       tagFiles,
			stream:    true,
			summary:   "Read a file",
			errors:    []int{404, 409},
			responses: map[string]*huma.Response{"200": {Description: "The file's bytes.", Content: binary}},
		},
		a.download,
	)
	register(a, route{method: http.MethodPost, path: files, id: "write-file", tag: tagFiles,
		summary: "Write a small file; its parents are made", errors: []int{404, 409, 413, 507}}, a.writeFile)
	a.huma.OpenAPI().Paths[files].Post.RequestBody = &huma.RequestBody{
		Required: true,
		Content: map[string]*huma.MediaType{
			"application/json": {Schema: a.schema(reflect.TypeFor[WriteFile]())},
		},
	}
	register(a, route{
		method:  http.MethodPut,
		path:    files,
		id:      "upload",
		tag:     tagFiles,
		stream:  true,
		summary: "Put a file of any size in place, whole or not at all; the body is the content",
		errors:  []int{404, 409, 507},
	}, a.upload)
	a.huma.OpenAPI().Paths[files].Put.RequestBody = &huma.RequestBody{Required: true, Content: binary}
	register(a, route{method: http.MethodDelete, path: files, id: "remove-file", tag: tagFiles,
		summary: "Delete a file or directory", errors: []int{404, 409}}, a.removeFile)
	register(a, route{method: http.MethodGet, path: files + "/list", id: "list-files", tag: tagFiles,
		summary: "List a directory, sorted by name", errors: []int{404, 409, 413},
		responses: a.listOf("The files.", reflect.TypeFor[[]FileInfo]())}, a.listFiles)
	register(a, route{method: http.MethodGet, path: files + "/stat", id: "stat-file", tag: tagFiles,
		summary: "Tell of one file; a symbolic link itself", errors: []int{404, 409}}, a.statFile)
	register(a, route{method: http.MethodGet, path: files + "/glob", id: "glob", tag: tagFiles,
		summary: "List the absolute paths that match", errors: []int{404, 409, 413},
		responses: a.listOf("The paths.", reflect.TypeFor[[]string]())}, a.glob)
	register(a, route{
		method:  http.MethodPost,
		path:    files + "/move",
		id:      "move-file",
		tag:     tagFiles,
		summary: "Rename a file or directory; the target's parents are made",
		errors:  []int{404, 409, 507},
	}, a.moveFile)
	register(a, route{method: http.MethodPost, path: files + "/chmod", id: "chmod-file", tag: tagFiles,
		summary: "Set a file's permission bits", errors: []int{404, 409}}, a.chmodFile)
	register(a, route{method: http.MethodPost, path: files + "/mkdir", id: "make-dir", tag: tagFiles,
		summary: "Make a directory and its parents", errors: []int{404, 409, 507}}, a.makeDir)
	a.archiveRoutes()
}

func (a *api) download(ctx context.Context, in *FilePath) (*written, error) {
	file, err := a.Service.ReadFile(ctx, in.sandbox(), in.Path)
	if err != nil {
		return nil, err
	}
	return &written{func(c huma.Context) {
		defer file.Close()
		r, w := humago.Unwrap(c)
		header := w.Header()
		header.Set("Content-Type", "application/octet-stream")
		// The content is a stranger's: no browser shows it as a page of this server.
		header.Set("Content-Disposition", "attachment")
		header.Set("Content-Security-Policy", "sandbox; default-src 'none'")
		content := io.Reader(file)
		size := int64(file.Info.Size)
		if size > 0 { // files of /proc say 0 and are not empty
			header.Set("Content-Length", strconv.FormatInt(size, 10))
			content = io.LimitReader(file, size) // of a file that grows, what it was
		}
		c.SetStatus(http.StatusOK)
		if r.Method == http.MethodHead {
			return
		}
		n, err := io.Copy(w, content)
		if err != nil || size > 0 && n < size {
			panic(http.ErrAbortHandler) // so that nobody takes it for whole
		}
	}}, nil
}

func (a *api) writeFile(ctx context.Context, in *writeInput) (*body[Status], error) {
	if kind, _, err := mime.ParseMediaType(
		in.ContentType,
	); in.ContentType != "" &&
		(err != nil || kind != "application/json") {
		return nil, stacyvm.Invalid("Content-Type", "must be application/json")
	}
	b, err := readWriteFile(in.body, maxFileBody, budget.From(ctx))
	if err != nil {
		return nil, err
	}
	bits, err := modeOf(b.mode)
	if err != nil {
		return nil, err
	}
	_, err = a.Service.WriteFile(
		ctx,
		in.sandbox(),
		control.WriteRequest{Path: b.path, Mode: bits, User: b.user, Body: b.content.Reader()},
	)
	return done("written", err)
}

func (a *api) upload(ctx context.Context, in *uploadInput) (*body[FileInfo], error) {
	bits, err := modeOf(in.Mode)
	if err != nil {
		return nil, err
	}
	info, err := a.Service.WriteFile(
		ctx,
		in.sandbox(),
		control.WriteRequest{Path: in.Path, Mode: bits, User: in.User, Body: in.content},
	)
	return answered(fileInfoOf(info), err)
}

func (a *api) removeFile(ctx context.Context, in *removeInput) (*body[Status], error) {
	return done("deleted", a.Service.RemoveFile(ctx, in.sandbox(), in.Path, in.Recursive))
}

func (a *api) listFiles(ctx context.Context, in *listFilesInput) (*written, error) {
	infos, err := a.Service.ListFiles(ctx, in.sandbox(), in.Path)
	return listed(infos, err, fileInfoOf)
}

func (a *api) statFile(ctx context.Context, in *FilePath) (*body[FileInfo], error) {
	info, err := a.Service.StatFile(ctx, in.sandbox(), in.Path)
	return answered(fileInfoOf(info), err)
}

func (a *api) glob(ctx context.Context, in *globInput) (*written, error) {
	paths, err := a.Service.GlobFiles(ctx, in.sandbox(), in.Pattern)
	return listed(paths, err, same)
}

func (a *api) moveFile(ctx context.Context, in *moveInput) (*body[Status], error) {
	return done("moved", a.Service.MoveFile(ctx, in.sandbox(), in.Body.OldPath, in.Body.NewPath))
}

func (a *api) chmodFile(ctx context.Context, in *chmodInput) (*body[Status], error) {
	bits, err := mode(in.Body.Mode)
	if err != nil {
		return nil, err
	}
	return done("chmod applied", a.Service.ChmodFile(ctx, in.sandbox(), in.Body.Path, bits))
}

func (a *api) makeDir(ctx context.Context, in *makeDirInput) (*body[Status], error) {
	bits, err := modeOf(in.Body.Mode)
	if err != nil {
		return nil, err
	}
	return done("made", a.Service.MakeDir(ctx, in.sandbox(), in.Body.Path, bits))
}
