package api

import (
	"context"
	"io"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/stacyvm/stacyvm/internal/control"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// Unpacked tells how an archive was unpacked.
type Unpacked struct {
	Entries  uint64          `json:"entries" doc:"Files, directories and links that are in place."`
	Failed   uint64          `json:"failed" doc:"Entries that are not."`
	Failures []UnpackFailure `json:"failures" doc:"The first 100 of them."`
}

// UnpackFailure is an entry of an archive that is not in place.
type UnpackFailure struct {
	Name   string `json:"name" doc:"What is no UTF-8 in it is replaced."`
	Reason string `json:"reason"`
}

type archiveInput struct {
	FilePath
	User string `query:"user" maxLength:"128" doc:"Owner of what is new; the image's user when empty."`

	content io.Reader
}

// Resolve implements huma.Resolver: the content is read as it comes.
func (in *archiveInput) Resolve(c huma.Context) []error {
	in.content = c.BodyReader()
	return nil
}

func (a *api) archiveRoutes() {
	const archive = "/sandboxes/{id}/files/archive"
	tar := map[string]*huma.MediaType{"application/x-tar": {Schema: &huma.Schema{Type: "string", Format: "binary"}}}
	register(a, route{
		method:  http.MethodGet,
		path:    archive,
		id:      "download-archive",
		tag:     tagFiles,
		stream:  true,
		summary: "Read a directory and all below it as a tar archive",
		errors:  []int{404, 409},
		responses: map[string]*huma.Response{
			"200": {
				Description: "The archive. Global headers tell of what is not in it: record STACYVM.omitted for what no archive can hold, STACYVM.failed for what could not be read or is not whole.",
				Content:     tar,
			},
		},
	}, a.downloadArchive)
	register(a, route{
		method:  http.MethodPut,
		path:    archive,
		id:      "upload-archive",
		tag:     tagFiles,
		stream:  true,
		summary: "Unpack a tar archive of any size into a directory, which is made when it is missing; the body is the archive",
		errors:  []int{404, 409, 507},
	}, a.uploadArchive)
	a.huma.OpenAPI().Paths[archive].Put.RequestBody = &huma.RequestBody{Required: true, Content: tar}
}

func (a *api) downloadArchive(ctx context.Context, in *FilePath) (*written, error) {
	archive, err := a.Service.ReadArchive(ctx, in.sandbox(), in.Path)
	if err != nil {
		return nil, err
	}
	return &written{func(c huma.Context) {
		defer archive.Close()
		r, w := humago.Unwrap(c)
		w.Header().Set("Content-Type", "application/x-tar")
		w.Header().Set("Content-Disposition", "attachment")
		c.SetStatus(http.StatusOK)
		if r.Method == http.MethodHead {
			return
		}
		if _, err := io.Copy(w, archive); err != nil {
			panic(http.ErrAbortHandler) // so that nobody takes it for whole
		}
	}}, nil
}

func (a *api) uploadArchive(ctx context.Context, in *archiveInput) (*body[Unpacked], error) {
	unpacked, err := a.Service.WriteArchive(
		ctx,
		in.sandbox(),
		control.ArchiveRequest{Path: in.Path, User: in.User, Body: in.content},
	)
	return answered(Unpacked{
		unpacked.Entries, unpacked.Failed,
		each(unpacked.Failures, func(f stacyvm.UnpackFailure) UnpackFailure { return UnpackFailure(f) }),
	}, err)
}
