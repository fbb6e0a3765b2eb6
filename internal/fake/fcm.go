package fake

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"
)

// FCMConfig describes a fake FCM.
type FCMConfig struct {
	// Addr is a loopback host and port; "" is a free port of 127.0.0.1.
	Addr string
	// Project is the Firebase project id; "" is "posthorn-fake".
	Project string
	// Key signs for the service account; nil makes a fresh one, which takes a good part of a second.
	Key *rsa.PrivateKey
	// TLS serves HTTPS, with a certificate of the fake's own CA, instead of plain HTTP.
	TLS bool
	// TokenLife is how long an access token is good; 0 is an hour.
	TokenLife time.Duration
	// Now is the fake's clock; nil is time.Now. Delays are real time regardless.
	Now func() time.Time
	// Keep bounds the log of deliveries; 0 is 4096, negative keeps none and only counts.
	Keep int
}

// FCM is a fake Firebase Cloud Messaging: the HTTP v1 API for registration tokens, and the OAuth token
// endpoint that its service account names.
//
// It knows the message resource as documented; messages to topics and conditions are refused, and
// neither quotas nor the limit of four collapse keys a device are enforced.
type FCM struct {
	service
	registry
	*authority
	project string
	oauth   oauth
}

const (
	// maxFCMMessage bounds the keys and values that reach the device.
	maxFCMMessage = 4096
	// maxFCMBody bounds what is read: a message and every option at length.
	maxFCMBody = 64 << 10
	maxFCMTTL  = 28 * 24 * time.Hour
)

// NewFCM starts a fake FCM. The caller closes it.
func NewFCM(cfg FCMConfig) (*FCM, error) {
	f := &FCM{project: cfg.Project}
	if f.project == "" {
		f.project = "posthorn-fake"
	}
	opt := options{addr: cfg.Addr, keep: cfg.Keep, now: cfg.Now}
	if cfg.TLS {
		own, err := newAuthority()
		if err != nil {
			return nil, err
		}
		f.authority = own
		opt.tls = serverTLS(own.leaf)
	}
	if err := f.oauth.init(cfg, f.project); err != nil {
		return nil, err
	}
	if err := f.start(opt, f.serve); err != nil {
		return nil, err
	}
	return f, nil
}

// Project is the Firebase project id.
func (f *FCM) Project() string { return f.project }

func (f *FCM) serve(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == tokenPath {
		f.serveToken(w, r)
		return
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxFCMBody+1))
	if err != nil {
		return // the client left in the middle
	}
	var d Delivery
	ans := f.check(r, body, &d)
	if ans.Status == http.StatusOK {
		d.ID = fmt.Sprintf("projects/%s/messages/0:%d%%%s", f.project, f.now().UnixMicro(), strings.ToLower(rand.Text()))
		ans = f.decide(&d, http.StatusOK)
	}
	f.conclude(w, r, &d, ans, func(w http.ResponseWriter, ans Answer) {
		if ans.Status/100 == 2 {
			writeJSON(w, ans.Status, map[string]string{"name": d.ID})
			return
		}
		writeFCM(w, ans)
	})
}

// check judges a request and fills in d. The answer is 200 when nothing is wrong.
func (f *FCM) check(r *http.Request, body []byte, d *Delivery) Answer {
	project, ok := strings.CutPrefix(r.URL.Path, "/v1/projects/")
	project, ok2 := strings.CutSuffix(project, "/messages:send")
	if !ok || !ok2 || strings.Contains(project, "/") || r.Method != http.MethodPost {
		return Answer{Status: http.StatusNotFound, Reason: "NOT_FOUND", detail: "There is nothing at this path for this method."}
	}
	if ans := f.oauth.checkBearer(r.Header.Values("Authorization"), f.now()); ans.Status != 0 {
		return ans
	}
	if project != f.project {
		return Answer{
			Status: http.StatusForbidden, Reason: "PERMISSION_DENIED",
			detail: fmt.Sprintf("Permission 'cloudmessaging.messages.create' denied on resource '//cloudresourcemanager.googleapis.com/projects/%s' (or it may not exist).", project),
		}
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return invalid("", "the body must be application/json")
	}
	if len(body) > maxFCMBody {
		return invalid("", "Request payload size exceeds the limit.")
	}
	if !utf8.Valid(body) {
		return invalid("", "Invalid JSON payload received. Invalid UTF-8.")
	}
	doc, err := parseObject(body)
	if err != nil {
		return invalid("", "Invalid JSON payload received. "+err.Error())
	}
	msg, faults := readFCMMessage(doc)
	if len(faults) > 0 {
		ans := invalid("", faults[0].Description)
		ans.violations = faults
		return ans
	}
	if !wellFormedRegistration(msg.token) {
		return invalid("message.token", "The registration token is not a valid FCM registration token")
	}
	if msg.size > maxFCMMessage {
		return invalid("message", "Android message is too big")
	}
	d.Target, d.Headers = msg.token, msg.options
	var outer struct {
		Message json.RawMessage `json:"message"`
	}
	if err := json.Unmarshal(body, &outer); err != nil {
		return invalid("", "Invalid JSON payload received. "+err.Error())
	}
	d.Payload = outer.Message

	known, gone := f.lookup(d.Target)
	if !known || !gone.IsZero() {
		return Answer{Status: http.StatusNotFound, Reason: "UNREGISTERED", detail: "Requested entity was not found."}
	}
	return Answer{Status: http.StatusOK}
}

// wellFormedRegistration takes what registration tokens are made of; their length is undocumented.
func wellFormedRegistration(s string) bool {
	if len(s) < 32 || len(s) > 1024 {
		return false
	}
	for _, c := range []byte(s) {
		if c != ':' && c != '-' && c != '_' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return true
}

// violation is one entry of a google.rpc.BadRequest.
type violation struct {
	Field       string `json:"field"`
	Description string `json:"description"`
}

// invalid is a 400; field may be empty when no single one is at fault.
func invalid(field, description string) Answer {
	return Answer{
		Status: http.StatusBadRequest, Reason: "INVALID_ARGUMENT", detail: description,
		violations: []violation{{field, description}},
	}
}

// fcmStatus maps the error codes of FCM to the google.rpc.Code that comes with them. Words missing here
// are such codes themselves, and come without an FcmError.
var fcmStatus = map[string]string{
	"UNREGISTERED":           "NOT_FOUND",
	"INVALID_ARGUMENT":       "INVALID_ARGUMENT",
	"SENDER_ID_MISMATCH":     "PERMISSION_DENIED",
	"THIRD_PARTY_AUTH_ERROR": "UNAUTHENTICATED",
	"QUOTA_EXCEEDED":         "RESOURCE_EXHAUSTED",
	"UNAVAILABLE":            "UNAVAILABLE",
	"INTERNAL":               "INTERNAL",
	"UNSPECIFIED_ERROR":      "UNKNOWN",
}

// writeFCM sends Google's error document (google.rpc.Status as JSON).
func writeFCM(w http.ResponseWriter, ans Answer) {
	type errorBody struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
		Status  string `json:"status"`
		Details []any  `json:"details,omitempty"`
	}
	e := errorBody{Code: ans.Status, Message: ans.detail, Status: ans.Reason}
	if e.Message == "" {
		e.Message = "This is a scripted answer."
	}
	if status, ok := fcmStatus[ans.Reason]; ok {
		e.Status = status
		e.Details = append(e.Details, map[string]string{
			"@type":     "type.googleapis.com/google.firebase.fcm.v1.FcmError",
			"errorCode": ans.Reason,
		})
	}
	if len(ans.violations) > 0 {
		e.Details = append(e.Details, map[string]any{
			"@type":           "type.googleapis.com/google.rpc.BadRequest",
			"fieldViolations": ans.violations,
		})
	}
	if ans.Status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Bearer realm="https://accounts.google.com/", error="invalid_token"`)
	}
	writeJSON(w, ans.Status, map[string]any{"error": e})
}
