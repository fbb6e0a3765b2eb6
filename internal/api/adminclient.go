package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"syscall"

	"github.com/posthorn-mail/posthorn/internal/problem"
)

// SocketName is the admin socket's file name inside the state directory.
const SocketName = "admin.sock"

// ErrNoServer says that nobody listens on the admin socket.
var ErrNoServer = errors.New("no running server")

// AdminClient speaks to a running server over the admin socket in its state directory. It is safe
// for concurrent use.
type AdminClient struct {
	socket string
	http   http.Client
}

// NewAdminClient returns a client for the server that uses stateDir. It connects with the first call.
func NewAdminClient(stateDir string) *AdminClient {
	c := &AdminClient{socket: filepath.Join(stateDir, SocketName)}
	// The mux redirects a path that is not clean; a DELETE must not come back as a GET of something else.
	c.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	c.http.Transport = &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", c.socket)
		},
	}
	return c
}

// Do sends one request; in and out are JSON values or nil. Errors are ErrNoServer (wrapped) when no
// server listens, a *problem.Problem for an answer that is not 2xx, else what went wrong on the way.
func (c *AdminClient) Do(ctx context.Context, method, path string, query url.Values, in, out any) error {
	if in == nil {
		return c.Send(ctx, method, path, query, "", nil, out)
	}
	b, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	return c.Send(ctx, method, path, query, "application/json", bytes.NewReader(b), out)
}

// Send is Do with a body of any type, which may be read as long as it takes.
func (c *AdminClient) Send(ctx context.Context, method, path string, query url.Values, media string, body io.Reader, out any) error {
	return c.exchange(ctx, method, path, query, media, body, "", func(d *json.Decoder) error {
		if out == nil {
			return nil
		}
		return d.Decode(out)
	})
}

// Each is Do for what answers in lines: each is called with every one, as soon as it is there.
func Each[T any](ctx context.Context, c *AdminClient, method, path string, in any, each func(T) error) error {
	b, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	return c.exchange(ctx, method, path, nil, mediaJSON, bytes.NewReader(b), mediaLines, func(d *json.Decoder) error {
		for {
			var line T
			if err := d.Decode(&line); errors.Is(err, io.EOF) {
				return nil
			} else if err != nil {
				return err
			}
			if err := each(line); err != nil {
				return err
			}
		}
	})
}

// exchange sends a request, and has read read the answer.
func (c *AdminClient) exchange(
	ctx context.Context, method, path string, query url.Values, media string, body io.Reader, accept string, read func(*json.Decoder) error,
) error {
	u := url.URL{Scheme: "http", Host: "admin", Path: path, RawQuery: query.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return err
	}
	if media != "" {
		req.Header.Set("Content-Type", media)
	}
	if accept != "" {
		req.Header.Set("Accept", accept)
	}
	res, err := c.http.Do(req)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w listens on %s", ErrNoServer, c.socket)
	case err != nil:
		return fmt.Errorf("ask the server on %s: %w", c.socket, errors.Unwrap(err))
	}
	defer res.Body.Close()
	if res.StatusCode/100 != 2 {
		p := problem.New(res.StatusCode, "", "")
		if err := json.NewDecoder(io.LimitReader(res.Body, 64<<10)).Decode(p); err != nil {
			p.Detail = "the server gave no reason"
		}
		return p
	}
	if err := read(json.NewDecoder(res.Body)); err != nil {
		return fmt.Errorf("read the server's answer: %w", err)
	}
	return nil
}
