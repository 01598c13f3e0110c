package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/bmatcuk/doublestar/v4"

	guestv1 "github.com/stacyvm/stacyvm/proto/guest/v1"
)

const (
	// maxVisited bounds the entries that one glob looks at.
	maxVisited = 5_000_000
	// globBatch is the number of paths in one message: with the longest names it stays under 4
	// MiB.
	globBatch = 512
	// globWithin bounds the time of one glob, whatever its pattern and the files cost.
	globWithin = 5 * time.Second
	// maxAlternatives bounds the patterns that one with braces stands for.
	maxAlternatives = 1000
)

// Glob implements the service. `**` does not go through links; a link that the pattern names is
// followed.
func (s *fileService) Glob(
	ctx context.Context,
	request *connect.Request[guestv1.GlobRequest],
	stream *connect.ServerStream[guestv1.GlobResponse],
) error {
	if !doublestar.ValidatePattern(request.Msg.GetPattern()) {
		return wrong("the pattern is malformed")
	}
	if alternatives(request.Msg.GetPattern()) > maxAlternatives {
		return wrong("the pattern stands for more than %d alternatives", maxAlternatives)
	}
	return s.on(request.Msg.GetPattern(), func(t tree, pattern, _ string) error {
		limited, cancel := context.WithTimeoutCause(ctx, globWithin, errSlowGlob)
		defer cancel()
		paths, err := glob(&globbed{ctx: limited, t: t, service: s, left: maxVisited}, pattern)
		if err != nil {
			return err
		}
		for batch := range slices.Chunk(paths, globBatch) {
			if err := stream.Send(&guestv1.GlobResponse{Paths: batch}); err != nil {
				return err
			}
		}
		return nil
	})
}

// glob gives the sorted absolute paths that match.
func glob(fsys *globbed, pattern string) ([]string, error) {
	var paths []string
	if pattern == "/" {
		return []string{"/"}, nil
	}
	err := doublestar.GlobWalk(fsys, strings.TrimPrefix(pattern, "/"), func(match string, _ fs.DirEntry) error {
		if len(paths) == fsys.service.most {
			return tooMany()
		}
		paths = append(paths, sound(path.Join("/", match)))
		return nil
	}, doublestar.WithNoFollow(), doublestar.WithFailOnIOErrors())
	if fsys.ctx.Err() != nil { // names are no longer told then
		err = context.Cause(fsys.ctx)
	}
	if err != nil {
		return nil, err
	}
	slices.Sort(paths)
	return slices.Compact(paths), nil // alternatives may match twice
}

var errSlowGlob = connect.NewError(connect.CodeOutOfRange, fmt.Errorf("the pattern takes longer than %s", globWithin))

// alternatives counts the patterns that one with braces stands for, up to more than there may be.
func alternatives(pattern string) int {
	n, _ := countAlternatives(pattern, 0)
	return n
}

// countAlternatives counts those of a sequence, up to the comma or brace that ends it inside of
// braces.
func countAlternatives(pattern string, depth int) (n int, rest string) {
	n = 1
	for i := 0; i < len(pattern); i++ {
		switch pattern[i] {
		case '\\':
			i++
		case '[': // up to its end everything is itself
			end := i + 1
			for end < len(pattern) && pattern[end] != ']' {
				if pattern[end] == '\\' {
					end++
				}
				end++
			}
			i = end
		case '{':
			sum, after := 0, pattern[i+1:]
			for {
				one, behind := countAlternatives(after, depth+1)
				sum = min(sum+one, maxAlternatives+1)
				if behind == "" || behind[0] == '}' {
					pattern, i = strings.TrimPrefix(behind, "}"), -1
					break
				}
				after = behind[1:]
			}
			n = min(n*sum, maxAlternatives+1)
		case '}', ',':
			if depth > 0 {
				return n, pattern[i:]
			}
		}
	}
	return n, ""
}

// globEntry is an entry whose name is told for as long as the glob may take: what comes then
// matches nothing for long, and the end of the time is the answer.
type globEntry struct {
	fs.DirEntry
	ctx context.Context
}

// Name implements fs.DirEntry.
func (t globEntry) Name() string {
	if t.ctx.Err() != nil {
		return ""
	}
	return t.DirEntry.Name()
}

// globbed is a tree as doublestar sees it. Only the end of the context and too much work are
// errors: what cannot be read does not match.
type globbed struct {
	ctx     context.Context // fs.FS has no room for it
	t       tree
	service *fileService
	left    int
}

// visit counts n entries.
func (g *globbed) visit(n int) error {
	if g.left -= n; g.left < 0 {
		return connect.NewError(connect.CodeOutOfRange, errors.New("the pattern looks at too many files"))
	}
	return context.Cause(g.ctx)
}

func (g *globbed) name(name string) string { return g.service.name(path.Join("/", name)) }

// Open implements fs.FS; doublestar needs the two methods below alone.
func (g *globbed) Open(name string) (fs.File, error) {
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrPermission}
}

// Stat implements fs.StatFS. A dangling link exists.
func (g *globbed) Stat(name string) (fs.FileInfo, error) {
	if err := g.visit(1); err != nil {
		return nil, err
	}
	info, err := g.t.Stat(g.name(name))
	if err != nil {
		info, err = g.t.Lstat(g.name(name))
	}
	if err != nil {
		return nil, fs.ErrNotExist
	}
	return info, nil
}

// ReadDir implements fs.ReadDirFS.
func (g *globbed) ReadDir(name string) ([]fs.DirEntry, error) {
	if err := g.visit(1); err != nil {
		return nil, err
	}
	dir, _, err := openToRead(g.t, g.name(name), directory)
	if err != nil {
		return nil, fs.ErrNotExist
	}
	defer dir.Close()
	var entries []fs.DirEntry
	for {
		some, err := dir.ReadDir(1024)
		for _, entry := range some {
			entries = append(entries, globEntry{entry, g.ctx})
		}
		if err := g.visit(len(some)); err != nil {
			return nil, err
		}
		if errors.Is(err, io.EOF) {
			slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
			return entries, nil
		}
		if err != nil {
			return nil, fs.ErrNotExist
		}
	}
}
