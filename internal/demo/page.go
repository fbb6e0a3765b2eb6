package demo

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

//go:embed page
var pageFiles embed.FS

// pageInfo is what the page tells about the processes it shows.
type pageInfo struct {
	Run      string `json:"run"` // differs from one start to the next
	User     string `json:"user"`
	Login    string `json:"login"`
	Password string `json:"password"`
	SMTP     string `json:"smtp"`
	LMTP     string `json:"lmtp"`
	IMAP     string `json:"imap"`
	Public   string `json:"public"`
	Internal string `json:"internal"`
	Push     string `json:"push"`
	StateDir string `json:"state_dir"`
	// Listener is the state of Posthorn's registration at the mail server.
	Listener string `json:"listener"`
}

// page serves the demo's page.
type page struct {
	info     pageInfo
	board    *board
	log      *slog.Logger
	handling handlers
}

// handlers counts running handlers; none begins once somebody waits.
type handlers struct {
	mu    sync.Mutex
	ended bool
	wg    sync.WaitGroup
}

// begin says whether a handler may run; then it must call wg.Done.
func (h *handlers) begin() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.ended {
		h.wg.Add(1)
	}
	return !h.ended
}

// Wait returns when no handler runs any more.
func (h *handlers) Wait() {
	h.mu.Lock()
	h.ended = true
	h.mu.Unlock()
	h.wg.Wait()
}

// serve runs the page's HTTP server until ctx ends.
func (p *page) serve(ctx context.Context, ln net.Listener) error {
	g, ctx := errgroup.WithContext(ctx)
	s := &http.Server{
		Handler:           p.handler(),
		ReadHeaderTimeout: 10 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return ctx }, // ends the event streams
		ErrorLog:          slog.NewLogLogger(p.log.Handler(), slog.LevelDebug),
	}
	g.Go(func() error {
		if err := s.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve the page: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		// Not Shutdown: it would wait seconds for connections that a browser has opened in advance. Every
		// handler ends with the context.
		err := s.Close()
		p.handling.Wait()
		return err
	})
	return g.Wait()
}

func (p *page) handler() http.Handler {
	files, err := fs.Sub(pageFiles, "page")
	if err != nil { // the directory is embedded above
		files = pageFiles
	}
	mux := http.NewServeMux()
	mux.Handle("/", http.FileServerFS(files))
	mux.HandleFunc("GET /events", p.events)
	mux.HandleFunc("POST /send", p.send)
	// The browser is a device like any other: it uses the public API. It is on another port, and a page
	// may only speak to its own.
	mux.Handle("/api/v1/", &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = "http", p.info.Public, ""
		},
		ErrorLog: slog.NewLogLogger(p.log.Handler(), slog.LevelDebug),
	})
	return p.guard(http.NewCrossOriginProtection().Handler(mux))
}

// contentPolicy lets the page load its own files and nothing else.
const contentPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// guard sets the headers of every answer. It refuses names other than localhost: another site whose
// name suddenly points to us (DNS rebinding) must not read the mailbox.
func (p *page) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !p.handling.begin() {
			return
		}
		defer p.handling.wg.Done()
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			host = r.Host
		}
		if _, err := netip.ParseAddr(host); err != nil && host != "localhost" {
			http.Error(w, "the demo answers under its address only", http.StatusMisdirectedRequest)
			return
		}
		h := w.Header()
		h.Set("Content-Security-Policy", contentPolicy)
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-cache")
		next.ServeHTTP(w, r)
	})
}

// send takes the form's mail and sends it by SMTP, as the command line beside the form does.
func (p *page) send(w http.ResponseWriter, r *http.Request) {
	var o outgoing
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 256<<10)).Decode(&o); err != nil {
		writeProblem(w, http.StatusBadRequest, "the form could not be read, or is larger than 256 KiB")
		return
	}
	if _, err := o.check(); err != nil {
		writeProblem(w, http.StatusUnprocessableEntity, err.Error())
		return
	}
	if err := sendMail(r.Context(), p.info.SMTP, p.info.Login, o); err != nil {
		writeProblem(w, http.StatusBadGateway, err.Error())
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func writeProblem(w http.ResponseWriter, status int, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"status": status, "title": http.StatusText(status), "detail": detail})
}

// heartbeat keeps idle event streams from being taken for dead by what lies between.
const heartbeat = 20 * time.Second

// events streams the state: who we are, then every journey, then each one that changes (the HTML
// standard's server-sent events). A browser that reconnects gets everything again.
func (p *page) events(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	out := http.NewResponseController(w)
	write := func(event string, v any) error {
		b, err := json.Marshal(v)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(w, "event: %s\ndata: %s\n\n", event, b)
		return err
	}
	if _, err := fmt.Fprint(w, "retry: 1000\n"); err != nil {
		return
	}
	if err := write("hello", p.info); err != nil {
		return
	}
	tick := time.NewTicker(heartbeat)
	defer tick.Stop()
	for rev := 0; ; {
		var (
			news    []journey
			changed <-chan struct{}
		)
		news, rev, changed = p.board.since(rev)
		for _, j := range news {
			if err := write("journey", j); err != nil {
				return
			}
		}
		if err := out.Flush(); err != nil {
			return
		}
		select {
		case <-changed:
		case <-tick.C:
			if _, err := fmt.Fprint(w, ": still here\n\n"); err != nil {
				return
			}
		case <-r.Context().Done():
			return
		}
	}
}
