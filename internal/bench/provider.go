package bench

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/posthorn-mail/posthorn/internal/fake"
)

// providerConfig makes a provider process.
type providerConfig struct {
	// Kind is "apns" or "fcm".
	Kind    string
	Devices int
	// Certificate, CertificateKey and TokenKey are DER; APNs only.
	Certificate, CertificateKey, TokenKey []byte
}

// providerReady is the first line of a provider process.
type providerReady struct {
	URL     string
	Control string
	// ServiceAccount is FCM's.
	ServiceAccount []byte
}

// The modes of a provider, set by POST /mode?m=….
const (
	modeOK    = "ok"
	modeStall = "stall" // holds every request, and answers it when the mode changes
	modeDown  = "down"  // nobody listens
)

// providerStats is the answer of GET /stats.
type providerStats struct {
	// Sends counts accepted notifications, Devices the devices that got any, Newest those whose newest
	// state has the uid that was asked for, Repeated the notifications that a device had already.
	Sends, Devices, Newest, Repeated int
	// LatencyMS are from the stamp in the subject to the arrival here, sorted.
	LatencyMS []float64
}

// provider is a strict fake that counts by device.
type provider struct {
	cfg    providerConfig
	apns   *fake.APNs
	fcm    *fake.FCM
	addr   string
	script func(fake.Delivery) *fake.Answer

	mu       sync.Mutex
	held     chan struct{} // closed when stalled requests may go on; nil when not stalled
	delay    time.Duration
	newest   []uint32
	sends    int
	repeated int
	latency  []float64
}

func providerChild(ctx context.Context, cfg providerConfig, out io.Writer) (err error) {
	p := &provider{cfg: cfg, newest: make([]uint32, cfg.Devices)}
	p.script = p.take
	if err := p.up(); err != nil {
		return err
	}
	defer func() {
		p.release()
		err = errors.Join(err, p.down())
	}()
	ready := providerReady{}
	if p.apns != nil {
		ready.URL = p.apns.URL()
	} else {
		ready.URL = p.fcm.URL()
		if ready.ServiceAccount, err = p.fcm.ServiceAccount(); err != nil {
			return err
		}
	}
	p.addr = ready.URL[len("http://"):]
	if cfg.Kind == "apns" {
		p.addr = ready.URL[len("https://"):]
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /mode", p.serveMode)
	mux.HandleFunc("POST /reset", func(http.ResponseWriter, *http.Request) { p.reset() })
	mux.HandleFunc("GET /stats", p.serveStats)
	return serveChild(ctx, mux, out, func(url string) any { ready.Control = url; return ready })
}

// serveChild serves on a free port of loopback until ctx ends, after it printed what ready makes of the
// address.
func serveChild(ctx context.Context, h http.Handler, out io.Writer, ready func(url string) any) error {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := json.NewEncoder(out).Encode(ready("http://" + ln.Addr().String())); err != nil {
		return err
	}
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// up starts the fake, again at the same address after down.
func (p *provider) up() error {
	if p.cfg.Kind == "fcm" {
		f, err := fake.NewFCM(fake.FCMConfig{Addr: p.addr, Keep: -1})
		if err != nil {
			return err
		}
		f.Script(p.script)
		p.fcm = f
		return nil
	}
	leafKey, err := x509.ParsePKCS8PrivateKey(p.cfg.CertificateKey)
	if err != nil {
		return fmt.Errorf("read certificate key: %w", err)
	}
	public, err := x509.ParsePKIXPublicKey(p.cfg.TokenKey)
	if err != nil {
		return fmt.Errorf("read token key: %w", err)
	}
	key, ok := public.(*ecdsa.PublicKey)
	if !ok {
		return errors.New("read token key: not an ECDSA key")
	}
	a, err := fake.NewAPNs(fake.APNsConfig{
		Addr: p.addr, Certificate: &tls.Certificate{Certificate: [][]byte{p.cfg.Certificate}, PrivateKey: leafKey},
		Keys: []fake.APNsKey{{KeyID: apnsKeyID, TeamID: apnsTeamID, Public: key}}, Topics: []string{apnsTopic},
		FirstStream: true, MinTokenInterval: -1, Keep: -1,
	})
	if err != nil {
		return err
	}
	a.Script(p.script)
	p.apns = a
	return nil
}

func (p *provider) down() error {
	var err error
	if p.apns != nil {
		err, p.apns = p.apns.Close(), nil
	}
	if p.fcm != nil {
		err, p.fcm = errors.Join(err, p.fcm.Close()), nil
	}
	return err
}

// take sees each request that passed the fake's checks, as it arrives.
func (p *provider) take(d fake.Delivery) *fake.Answer {
	now := time.Now()
	p.mu.Lock()
	held, delay := p.held, p.delay
	p.mu.Unlock()
	if held != nil {
		<-held
	}
	device, uid, stamp := p.read(d)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sends++
	if device >= 0 && device < len(p.newest) {
		if uid <= p.newest[device] {
			p.repeated++
		}
		p.newest[device] = max(p.newest[device], uid)
	}
	if stamp > 0 && held == nil {
		p.latency = append(p.latency, float64(now.UnixNano()-stamp)/1e6)
	}
	return &fake.Answer{Delay: delay}
}

// read finds the device's number, the uid and the load generator's stamp.
func (p *provider) read(d fake.Delivery) (device int, uid uint32, stamp int64) {
	device = -1
	if n := len(d.Target); n >= 12 {
		if v, err := strconv.ParseInt(d.Target[n-12:], 16, 64); err == nil {
			device = int(v)
		}
	}
	uid = uint32(numberAfter(d.Payload, `"uid":`)) //nolint:gosec // a uid has 32 bits
	return device, uid, numberAfter(d.Payload, stampMark)
}

// stampMark is before the time in a subject, in nanoseconds since 1970.
const stampMark = "stamp "

func numberAfter(text []byte, mark string) int64 {
	_, rest, _ := bytes.Cut(text, []byte(mark))
	rest = bytes.TrimLeft(rest, `"`)
	var n int64
	for _, c := range rest {
		if c < '0' || c > '9' {
			break
		}
		n = n*10 + int64(c-'0')
	}
	return n
}

func (p *provider) serveMode(w http.ResponseWriter, r *http.Request) {
	mode := r.FormValue("m")
	delay, _ := time.ParseDuration(r.FormValue("delay")) // none is no delay
	p.mu.Lock()
	p.delay = delay
	if p.held == nil && mode == modeStall {
		p.held = make(chan struct{})
	}
	p.mu.Unlock()
	if mode != modeStall {
		p.release()
	}
	var err error
	if away := p.apns == nil && p.fcm == nil; mode == modeDown && !away {
		err = p.down()
	} else if mode != modeDown && away {
		err = p.up()
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

// release lets stalled requests go on.
func (p *provider) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held != nil {
		close(p.held)
		p.held = nil
	}
}

func (p *provider) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.newest)
	p.sends, p.repeated, p.latency = 0, 0, nil
}

func (p *provider) serveStats(w http.ResponseWriter, r *http.Request) {
	want, _ := strconv.ParseUint(r.FormValue("newest"), 10, 32)
	p.mu.Lock()
	s := providerStats{Sends: p.sends, Repeated: p.repeated}
	for _, uid := range p.newest {
		if uid > 0 {
			s.Devices++
		}
		if want > 0 && uint64(uid) == want {
			s.Newest++
		}
	}
	if r.FormValue("latency") != "" {
		s.LatencyMS = slices.Clone(p.latency)
	}
	p.mu.Unlock()
	slices.Sort(s.LatencyMS)
	_ = json.NewEncoder(w).Encode(s)
}
