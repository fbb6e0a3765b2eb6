package api

import (
	"bytes"
	"encoding/json"
	"net/http"
	"time"

	"github.com/posthorn-mail/posthorn/internal/problem"
	"github.com/posthorn-mail/posthorn/internal/tenant/brand"
)

// maxFound bounds the answer of a search for providers, maxQuery what is searched for, in bytes.
const maxFound, maxQuery = 50, 200

// Providers is what a search found.
type Providers struct {
	Items []brand.Entry `json:"items"`
	// More says that there are more than are shown.
	More bool `json:"more"`
}

// What everybody may read before he signs in, the signed directory, the branding of a provider and its logo, are
// documents of their own, with an ETag, that any page may fetch.

func (a *API) directory(r *http.Request) (page, error) {
	d, err := a.Tenants.Directory(r.Context())
	return signed(d), err
}

func (a *API) directorySignature(r *http.Request) (page, error) {
	d, err := a.Tenants.Directory(r.Context())
	// The tag is the directory's, so that who fetched both sees whether they belong together.
	return page{body: d.Signature, mediaType: "application/octet-stream", tag: d.Digest, maxAge: "60"}, err
}

func (a *API) directoryKey(r *http.Request) (page, error) {
	key, err := a.Tenants.DirectoryKey(r.Context())
	if err != nil {
		return page{}, err
	}
	body, err := brand.KeyPEM(key)
	return page{body: body, mediaType: "application/x-pem-file", maxAge: "3600"}, err
}

func directorySchema(*http.Request) (page, error) {
	return page{body: brand.Schema, mediaType: "application/schema+json", maxAge: "3600"}, nil
}

func (a *API) branding(r *http.Request) (page, error) {
	d, err := a.Tenants.Branding(r.Context(), r.PathValue("provider"))
	return signed(d), err
}

func (a *API) logo(r *http.Request) (page, error) {
	l, err := a.Tenants.ProviderLogo(r.Context(), r.PathValue("provider"))
	d := page{body: l.Body, mediaType: l.MediaType, tag: l.SHA256, maxAge: "300"}
	if r.URL.Query().Get("sha256") == l.SHA256 { // the address of this very picture
		d.maxAge = "31536000, immutable"
	}
	return d, err
}

// page is bytes to be served as they are.
type page struct {
	body      []byte
	mediaType string
	tag       string // of the ETag; "" for none
	signature string
	maxAge    string // in seconds, with what else Cache-Control says of it
}

func signed(d brand.Document) page {
	return page{body: d.Body, mediaType: "application/json", tag: d.Digest, signature: d.Header(), maxAge: "60"}
}

// publish serves a path for GET and HEAD, to any origin.
func (a *API) publish(mux *http.ServeMux, path string, get func(*http.Request) (page, error)) {
	mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Access-Control-Allow-Origin", "*")
		h.Set("Cross-Origin-Resource-Policy", "cross-origin") // a logo is shown by pages of others
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			h.Set("Allow", "GET, HEAD")
			problem.Write(w, problem.New(http.StatusMethodNotAllowed, "method_not_allowed", "this takes GET, HEAD"))
			return
		}
		d, err := get(r)
		if err != nil {
			problem.Write(w, a.problemOf(r.Context(), err))
			return
		}
		h.Set("Access-Control-Expose-Headers", "ETag, "+brand.SignatureHeader)
		h.Set("Content-Type", d.mediaType)
		h.Set("Cache-Control", "public, max-age="+d.maxAge)
		h.Set("X-Content-Type-Options", "nosniff")
		// A logo that is opened as a page is a page of nobody: no script, no origin.
		h.Set("Content-Security-Policy", "sandbox; default-src 'none'; style-src 'unsafe-inline'")
		if d.tag != "" {
			h.Set("ETag", `"`+d.tag+`"`)
		}
		if d.signature != "" {
			h.Set(brand.SignatureHeader, d.signature)
		}
		if r.Header.Get("Range") != "" { // all of them are small, and a signature is of the whole
			r = r.Clone(r.Context())
			r.Header.Del("Range")
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(d.body))
	})
}

func (a *API) searchProviders(r *http.Request) (page, error) {
	words := r.URL.Query().Get("q")
	if len(words) > maxQuery {
		return page{}, problem.InField("q", "must have 200 bytes at most")
	}
	var found Providers
	var err error
	if found.Items, found.More, err = a.Tenants.SearchProviders(r.Context(), words, maxFound); err != nil {
		return page{}, err
	}
	body, err := json.Marshal(found)
	return page{body: append(body, '\n'), mediaType: "application/json", maxAge: "60"}, err
}
