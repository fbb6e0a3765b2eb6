// Package subscription knows which device wants to hear what, and which listener that wants.
//
// A subscription is one user on one device: a device is a (transport, token) pair. It may hold several
// users while the same device secret signed in for each; a token that comes without that secret has
// a new owner and moves to him, which silences the users before. A user's listener row is written in
// the transaction that changes his subscriptions; package listen makes it true.
//
// Tokens are sealed at rest. A Store is safe for concurrent use.
package subscription

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
	"unique"

	"github.com/posthorn-mail/posthorn/internal/account"
	"github.com/posthorn-mail/posthorn/internal/bus"
	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/seal"
	"github.com/posthorn-mail/posthorn/internal/tenant"
	"github.com/posthorn-mail/posthorn/internal/tenant/cascade"
)

var (
	// ErrNotFound means that the user has no such subscription.
	ErrNotFound = errors.New("no such subscription")
	// ErrTooMany means that the user has push.max_subscriptions subscriptions.
	ErrTooMany = errors.New("the user has as many subscriptions as he can have (push.max_subscriptions): remove one first")
)

// Token is how a provider reaches a device. Only its Target may be shown.
type Token struct {
	// Transport is "apns", "fcm" or "webpush".
	Transport string
	// Identity is the part that makes it this device and no other.
	Identity string `json:"-"`
	// Body is everything the transport needs, as it understands it.
	Body []byte `json:"-"`
	// Target is a form for people: a push origin, or the last characters.
	Target string
}

// LogValue shows the target only.
func (t Token) LogValue() slog.Value { return slog.StringValue(t.Transport + " " + t.Target) }

// String shows the target only.
func (t Token) String() string { return t.Transport + " " + t.Target }

// Subscription is one user on one device. From For and Load, its Policy has the operator's quiet hours where the device
// has none of its own.
type Subscription struct {
	ID     string
	User   tenant.UserID
	Client string
	Token  Token // without Identity; Body only from Load
	Topics []string
	// Policy is nil when everything that the topics name alerts at once.
	Policy *Policy
	// Keys are what the device wants its notifications sealed with, as package push understands them; only
	// from Load. HasKeys says whether there are any.
	Keys    []byte `json:"-"`
	HasKeys bool
	// Accounts is how many users are on the device; only from Load.
	Accounts int
	Created  time.Time
	Expires  time.Time // zero: never
	// Device is the same for all subscriptions of one device. It never changes.
	Device uint64
	// Privacy is how much a notification may tell (push.privacy), PrivacyFixed that an app's own level does not
	// take its place, for somebody closer to the user than the installation has said so. Only from Load.
	Privacy      string
	PrivacyFixed bool
	// Provider is whose push credentials the device subscribed with; "" is the installation.
	Provider string
	// Environment is the APNs environment that took the token when the configured one did not. Only from Load.
	Environment string
}

// Request asks for a subscription.
type Request struct {
	Client  string
	Token   Token
	Topics  []string
	Expires time.Time
	// Provider is whose push credentials the token belongs to; "" is the installation.
	Provider string
	// Policy and Keys take the place of those that the subscription had; nil leaves them. A zero Policy and
	// empty Keys take them away.
	Policy *Policy
	Keys   []byte
}

// Store keeps subscriptions and the listeners they want.
type Store struct {
	db    *db.DB
	keys  *seal.Keyring
	views Views
	now   func() time.Time
	// cache holds users' subscriptions, without the token, for the way of an event. What it has missed is
	// harmless: push puts no slot for a subscription that is gone.
	cache  *bus.Cache[tenant.UserID, []Subscription]
	ledger *bus.Ledger
	bus    *bus.Bus // nil before Join
	watch  func([]tenant.UserID)
}

// Views is what the cascade says for a user, from memory as a rule ([tenant.Store.View]).
type Views func(ctx context.Context, u tenant.UserID) (*cascade.View, error)

// New returns a Store.
func New(d *db.DB, keys *seal.Keyring, views Views, now func() time.Time) *Store {
	s := &Store{
		db: d, keys: keys, views: views, now: now, cache: bus.NewCache[tenant.UserID, []Subscription](maxCached),
		watch: func([]tenant.UserID) {},
	}
	s.ledger = bus.NewLedger(s.lastChange, s.forget)
	return s
}

// forget drops what was derived from rows that may have changed.
func (s *Store) forget() {
	s.cache.DropAll()
	s.watch(nil)
}

// Allowed reports whether a user may have pushes by a client.
func (s *Store) Allowed(ctx context.Context, u tenant.UserID, client string) (bool, error) {
	v, err := s.view(ctx, u)
	return err == nil && allowed(v, client), err
}

func (s *Store) view(ctx context.Context, u tenant.UserID) (*cascade.View, error) {
	v, err := s.views(ctx, u)
	if err != nil {
		return nil, fmt.Errorf("find properties of %s: %w", u, err)
	}
	return v, nil
}

// allowed is the gate of all pushes: the user has the capability, the client is one that may have them, and if it is
// the app, the user may have the app.
func allowed(v *cascade.View, client string) bool {
	return cascade.CapabilityPush.Of(v) && cascade.MatchClient(cascade.AllowedClients.Of(v), client) &&
		(cascade.MobileMailApp.Of(v) || !cascade.MatchClient(cascade.AppClients.Of(v), client))
}

const (
	columns = `id, context_id, user_id, client, transport, target, topics, policy,
		CASE WHEN device_key = '' THEN 0 ELSE 1 END, created_ms, expires_ms, token_hash, provider`
	sqlOtherOwners  = `DELETE FROM subscriptions WHERE transport = ? AND token_hash = ? AND device_hash <> ? AND NOT (context_id = ? AND user_id = ?) RETURNING context_id, user_id`
	sqlCountDevices = `SELECT COUNT(*) FROM subscriptions WHERE context_id = ? AND user_id = ? AND NOT (transport = ? AND token_hash = ?)`
	sqlPut          = `INSERT INTO subscriptions (id, context_id, user_id, client, transport, token_hash, token, target, device_hash,
		topics, created_ms, renewed_ms, expires_ms, policy, device_key, provider) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (transport, token_hash, context_id, user_id) DO UPDATE SET client = excluded.client, token = excluded.token,
		target = excluded.target, device_hash = excluded.device_hash, topics = excluded.topics, renewed_ms = excluded.renewed_ms,
		expires_ms = excluded.expires_ms, provider = excluded.provider, policy = CASE WHEN ? = 1 THEN excluded.policy ELSE subscriptions.policy END,
		device_key = CASE WHEN ? = 1 THEN excluded.device_key ELSE subscriptions.device_key END RETURNING ` + columns
	sqlByUser = `SELECT ` + columns + ` FROM subscriptions WHERE context_id = ? AND user_id = ? ORDER BY created_ms, id`
	sqlAll    = `SELECT ` + columns + ` FROM subscriptions ORDER BY context_id, user_id, created_ms, id`
	sqlLoad   = `SELECT ` + columns + `, token_hash, token, environment, device_key,
		(SELECT COUNT(*) FROM subscriptions o WHERE o.transport = subscriptions.transport AND o.token_hash = subscriptions.token_hash)
		FROM subscriptions WHERE id = ?`
	sqlSetPolicy     = `UPDATE subscriptions SET policy = ? WHERE id = ? AND context_id = ? AND user_id = ? RETURNING ` + columns
	sqlRemove        = `DELETE FROM subscriptions WHERE id = ? AND context_id = ? AND user_id = ?`
	sqlRemoveGone    = `DELETE FROM subscriptions WHERE id = ? AND renewed_ms <= ? RETURNING context_id, user_id`
	sqlFound         = `UPDATE subscriptions SET environment = ? WHERE id = ?`
	sqlRemoveDevice  = `DELETE FROM subscriptions WHERE context_id = ? AND user_id = ? AND device_hash = ?`
	sqlRemoveExpired = `DELETE FROM subscriptions WHERE expires_ms > 0 AND expires_ms <= ? RETURNING context_id, user_id`
)

// Subscribe stores or renews the subscription of a session's user on a device, takes the device from
// users whose device secret is another, and marks the listeners of all of them. Errors are
// *tenant.InvalidError and ErrTooMany.
func (s *Store) Subscribe(ctx context.Context, sess account.Session, req Request) (Subscription, error) {
	now := s.now()
	if err := s.check(req, now); err != nil {
		return Subscription{}, err
	}
	v, err := s.view(ctx, sess.User)
	if err != nil {
		return Subscription{}, err
	}
	topics, err := json.Marshal(req.Topics)
	if err != nil {
		return Subscription{}, fmt.Errorf("encode topics: %w", err)
	}
	transport, hash, u := req.Token.Transport, hashIdentity(req.Token), sess.User
	sealed := s.keys.Seal(tokenOwner(transport, hash), req.Token.Body)
	policy, err := encodePolicy(req.Policy)
	if err != nil {
		return Subscription{}, err
	}
	deviceKey := ""
	if len(req.Keys) > 0 {
		deviceKey = s.keys.Seal(keysOwner(transport, hash), req.Keys)
	}
	var sub Subscription
	err = s.change(ctx, func(ctx context.Context, tx *db.Tx) ([]tenant.UserID, error) {
		if err := tx.Lock(ctx, "device/"+transport+"/"+hash); err != nil {
			return nil, err
		}
		rows, err := tx.Query(ctx, sqlOtherOwners, transport, hash, sess.Device, u.Context, u.ID)
		if err != nil {
			return nil, err
		}
		others, err := scanUsers(rows)
		if err != nil {
			return nil, err
		}
		var devices int64
		if err := tx.QueryRow(ctx, sqlCountDevices, u.Context, u.ID, transport, hash).Scan(&devices); err != nil {
			return nil, err
		}
		if devices >= int64(cascade.MaxSubscriptions.Of(v)) {
			return nil, ErrTooMany
		}
		err = scan(tx.QueryRow(ctx, sqlPut, idOf(transport, hash, u), u.Context, u.ID, req.Client, transport, hash, sealed, req.Token.Target,
			sess.Device, string(topics), db.Millis(now), db.Millis(now), db.Millis(req.Expires), policy, deviceKey, req.Provider,
			flag(req.Policy != nil), flag(req.Keys != nil)).Scan, &sub)
		return append(others, u), err
	})
	return sub, err
}

func (s *Store) check(req Request, now time.Time) error {
	if err := account.CheckClient(req.Client); err != nil {
		return err
	}
	if len(req.Topics) == 0 {
		return &tenant.InvalidError{Field: "topics", Problem: `must name at least one topic, such as "mail:new"`}
	}
	if len(req.Topics) > maxTopics {
		return &tenant.InvalidError{Field: "topics", Problem: fmt.Sprintf("must be at most %d", maxTopics)}
	}
	for i, t := range req.Topics {
		if err := CheckTopic(t); err != nil {
			return &tenant.InvalidError{Field: fmt.Sprintf("topics[%d]", i), Problem: err.Error()}
		}
	}
	if !req.Expires.IsZero() && !req.Expires.After(now) {
		return &tenant.InvalidError{Field: "expires", Problem: "is in the past"}
	}
	if req.Policy != nil {
		return req.Policy.Check()
	}
	return nil
}

// SetPolicy changes the policy of a user's subscription. Errors are ErrNotFound and *tenant.InvalidError.
func (s *Store) SetPolicy(ctx context.Context, u tenant.UserID, id string, p Policy) (sub Subscription, err error) {
	if !isID(id) {
		return Subscription{}, ErrNotFound
	}
	if err := p.Check(); err != nil {
		return Subscription{}, err
	}
	policy, err := encodePolicy(&p)
	if err != nil {
		return Subscription{}, err
	}
	err = s.change(ctx, func(ctx context.Context, tx *db.Tx) ([]tenant.UserID, error) {
		err := scan(tx.QueryRow(ctx, sqlSetPolicy, policy, id, u.Context, u.ID).Scan, &sub)
		if errors.Is(err, sql.ErrNoRows) {
			err = ErrNotFound
		}
		return []tenant.UserID{u}, err
	})
	return sub, err
}

// encodePolicy is the column of a policy: "" for one that wants nothing special.
func encodePolicy(p *Policy) (string, error) {
	if p == nil {
		return "", nil
	}
	raw, err := json.Marshal(p)
	if err != nil {
		return "", fmt.Errorf("encode policy: %w", err)
	}
	if string(raw) == "{}" {
		return "", nil
	}
	return string(raw), nil
}

func flag(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// hashIdentity is a device's look-up key. Tokens are long and random, so a plain hash hides them.
func hashIdentity(t Token) string {
	sum := sha256.Sum256([]byte(t.Transport + "\x00" + t.Identity))
	return hex.EncodeToString(sum[:])
}

// DeviceOf is the Subscription.Device of a token by its hash.
func DeviceOf(tokenHash string) uint64 {
	n, _ := strconv.ParseUint(tokenHash[:min(16, len(tokenHash))], 16, 64) // hashIdentity writes no other
	return n
}

func tokenOwner(transport, hash string) string { return "token/" + transport + "/" + hash }

func keysOwner(transport, hash string) string { return "keys/" + transport + "/" + hash }

// idOf makes the id of a user's subscription on a device: the same when the device comes back after it was
// removed, so that its trace goes on and the provider sees the slots it knows.
func idOf(transport, hash string, u tenant.UserID) string {
	sum := sha256.Sum256([]byte("subscription\x00" + transport + "\x00" + hash + "\x00" + u.String()))
	return hex.EncodeToString(sum[:12])
}

// isID tells our ids from what else a URL may hold.
func isID(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == 12
}

func scan(scan func(...any) error, v *Subscription, more ...any) error {
	var topics, policy, hash string
	var keys, created, expires int64
	err := scan(append([]any{
		&v.ID, &v.User.Context, &v.User.ID, &v.Client, &v.Token.Transport, &v.Token.Target, &topics, &policy, &keys, &created, &expires, &hash, &v.Provider,
	}, more...)...)
	if err != nil {
		return err
	}
	v.HasKeys, v.Created, v.Expires, v.Device = keys == 1, db.Time(created), db.Time(expires), DeviceOf(hash)
	// Thousands of subscriptions are held that say the same.
	v.Client, v.Token.Transport = unique.Make(v.Client).Value(), unique.Make(v.Token.Transport).Value()
	v.Provider = unique.Make(v.Provider).Value()
	if topics == usualTopics {
		v.Topics = []string{TopicNewMail}
	} else if err := json.Unmarshal([]byte(topics), &v.Topics); err != nil {
		return fmt.Errorf("decode topics: %w", err)
	}
	if v.Policy = nil; policy == "" {
		return nil
	}
	if err := json.Unmarshal([]byte(policy), &v.Policy); err != nil {
		return fmt.Errorf("decode policy: %w", err)
	}
	return nil
}

// usualTopics are the topics of nearly all subscriptions, as their column has them.
const usualTopics = `["` + TopicNewMail + `"]`

func scanRows(rows *sql.Rows, err error) ([]Subscription, error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	all := []Subscription{}
	for rows.Next() {
		var sub Subscription
		if err := scan(rows.Scan, &sub); err != nil {
			return nil, err
		}
		all = append(all, sub)
	}
	return all, rows.Err()
}

func scanUsers(rows *sql.Rows) ([]tenant.UserID, error) {
	defer rows.Close()
	var users []tenant.UserID
	for rows.Next() {
		var u tenant.UserID
		if err := rows.Scan(&u.Context, &u.ID); err != nil {
			return nil, err
		}
		if !slices.Contains(users, u) {
			users = append(users, u)
		}
	}
	return users, rows.Err()
}

// ByUser lists a user's subscriptions, oldest first.
func (s *Store) ByUser(ctx context.Context, u tenant.UserID) ([]Subscription, error) {
	return scanRows(s.db.Query(ctx, sqlByUser, u.Context, u.ID))
}

// All lists the subscriptions of the installation by user.
func (s *Store) All(ctx context.Context) ([]Subscription, error) {
	return scanRows(s.db.Query(ctx, sqlAll))
}

// Load finds a subscription with its token, or returns ErrNotFound.
func (s *Store) Load(ctx context.Context, id string) (Subscription, error) {
	if !isID(id) {
		return Subscription{}, ErrNotFound
	}
	var sub Subscription
	var hash, sealed, deviceKey string
	err := scan(s.db.QueryRow(ctx, sqlLoad, id).Scan, &sub, &hash, &sealed, &sub.Environment, &deviceKey, &sub.Accounts)
	if errors.Is(err, sql.ErrNoRows) {
		return Subscription{}, ErrNotFound
	} else if err != nil {
		return Subscription{}, fmt.Errorf("load subscription: %w", err)
	}
	if sub.Token.Body, err = s.keys.Open(tokenOwner(sub.Token.Transport, hash), sealed); err != nil {
		return Subscription{}, fmt.Errorf("open token of subscription %s: %w", id, err)
	}
	if deviceKey != "" {
		if sub.Keys, err = s.keys.Open(keysOwner(sub.Token.Transport, hash), deviceKey); err != nil {
			return Subscription{}, fmt.Errorf("open device keys of subscription %s: %w", id, err)
		}
	}
	return s.Ruled(ctx, sub)
}

// Unsubscribe removes a user's subscription, or returns ErrNotFound.
func (s *Store) Unsubscribe(ctx context.Context, u tenant.UserID, id string) error {
	if !isID(id) {
		return ErrNotFound
	}
	return s.change(ctx, func(ctx context.Context, tx *db.Tx) ([]tenant.UserID, error) {
		n, err := tx.Exec(ctx, sqlRemove, id, u.Context, u.ID)
		if err == nil && n == 0 {
			err = ErrNotFound
		}
		return []tenant.UserID{u}, err
	})
}

// UnsubscribeDevice removes all subscriptions that a device, named by its secret's hash, holds for a user.
func (s *Store) UnsubscribeDevice(ctx context.Context, u tenant.UserID, device string) error {
	return s.change(ctx, func(ctx context.Context, tx *db.Tx) ([]tenant.UserID, error) {
		_, err := tx.Exec(ctx, sqlRemoveDevice, u.Context, u.ID, device)
		return []tenant.UserID{u}, err
	})
}

// RemoveGone removes, inside a write, a subscription whose token the provider called gone, unless the
// device has renewed it after the token was already gone. It reports whether it did; then the change is for
// Committed.
func (s *Store) RemoveGone(ctx context.Context, tx *db.Tx, id string, gone time.Time) (c Change, removed bool, err error) {
	var u tenant.UserID
	err = tx.QueryRow(ctx, sqlRemoveGone, id, db.Millis(gone)).Scan(&u.Context, &u.ID)
	if errors.Is(err, sql.ErrNoRows) {
		return Change{}, false, nil
	} else if err != nil {
		return Change{}, false, err
	}
	if err := s.refreshListeners(ctx, tx, []tenant.UserID{u}); err != nil {
		return Change{}, false, err
	}
	c, err = next(ctx, tx, u)
	return c, true, err
}

// Found remembers, inside a write, in which APNs environment the token of a subscription was found to be.
func (s *Store) Found(ctx context.Context, tx *db.Tx, id, environment string) error {
	_, err := tx.Exec(ctx, sqlFound, environment, id)
	return err
}

// RemoveExpired removes the subscriptions whose time is over.
func (s *Store) RemoveExpired(ctx context.Context) error {
	return s.change(ctx, func(ctx context.Context, tx *db.Tx) ([]tenant.UserID, error) {
		rows, err := tx.Query(ctx, sqlRemoveExpired, db.Millis(s.now()))
		if err != nil {
			return nil, err
		}
		return scanUsers(rows)
	})
}

// maxTopics bounds the topics of one subscription.
const maxTopics = 50

// TopicNewMail is new mail in the INBOX. New mail in another folder is TopicNewMail + ":" + the
// folder's full name in UTF-8 ("mail:new:Lists/go-nuts").
const TopicNewMail = "mail:new"

// TopicFor is the topic of new mail in a folder.
func TopicFor(folder string) string {
	if folder == "INBOX" {
		return TopicNewMail
	}
	return TopicNewMail + ":" + folder
}

// CheckTopic accepts the topics above.
func CheckTopic(topic string) error {
	if topic == TopicNewMail {
		return nil
	}
	folder, ok := strings.CutPrefix(topic, TopicNewMail+":")
	if !ok {
		return errors.New(`is not a topic: there is "mail:new" (INBOX) and "mail:new:FOLDER"`)
	}
	if folder == "" || len(folder) > 255 || strings.EqualFold(folder, "INBOX") {
		return errors.New(`must name a folder other than INBOX, whose topic is "mail:new"`)
	}
	if !utf8.ValidString(folder) || strings.ContainsFunc(folder, unicode.IsControl) {
		return errors.New("must name the folder in UTF-8 without control characters")
	}
	return nil
}
