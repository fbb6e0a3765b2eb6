package account

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/posthorn-mail/posthorn/internal/db"
)

const (
	// knownDevice and knownNetwork are for how long a place is known after a sign-in. A network may belong to somebody
	// else by then; a device secret does not.
	knownDevice  = 400 * 24 * time.Hour
	knownNetwork = 90 * 24 * time.Hour
	// maxPlaces bounds the places of a login; those that were not used for longest give way.
	maxPlaces = 50
	// sayEvery is how often it is worth a word that somebody has to wait.
	sayEvery = time.Minute
)

// limits hold up who guesses passwords, and nobody else. Attempts are counted
//   - for each login and place: a device that has signed in with this login before, by its secret, or a network,
//   - for each network, whatever the login, unless the device is known,
//   - for each login, over all networks from which nobody has signed in with it before: strangers, who together have
//     twice as many.
//
// So an attacker with many addresses uses up what strangers have, and never what the owner has on his phone or at home.
// When strangers have used half of it, a network gets no more than one of the rest in a window: to hold up the owner on
// a new phone in a new network, it takes as many networks as a place has attempts, and they must go on. Even then one
// attempt after the other gets through, whoever comes first.
type limits struct {
	byPlace, byAddress, byStrangers *limiter
	late                            *limiter // who had one of the second half
	said                            *limiter
	starts                          *limiter // of sign-ins at identity providers, for each network
}

func newLimits(c Config) limits {
	return limits{
		byPlace:     newLimiter(c.AttemptsPerLogin, c.Window, c.Now),
		byAddress:   newLimiter(c.AttemptsPerAddress, c.Window, c.Now),
		byStrangers: newLimiter(2*c.AttemptsPerLogin, c.Window, c.Now),
		late:        newLimiter(1, c.Window, c.Now),
		said:        newLimiter(1, sayEvery, c.Now),
		starts:      newLimiter(c.AttemptsPerAddress, c.Window, c.Now),
	}
}

// attempt is what one sign-in has taken of the limits.
type attempt []taken

type taken struct {
	from *limiter
	key  string
}

// giveBack returns what was taken: it was no guess.
func (a attempt) giveBack() {
	for _, t := range a {
		t.from.giveBack(t.key)
	}
}

// take takes from a limit, or gives all back and says how long to wait.
func (a *attempt) take(from *limiter, key string) *TooManyError {
	if wait, ok := from.take(key); !ok {
		a.giveBack()
		return &TooManyError{RetryAfter: wait}
	}
	*a = append(*a, taken{from, key})
	return nil
}

// admit takes an attempt from all limits that hold for it, or none. login is in lower case, network is addressKey's.
func (s *Service) admit(ctx context.Context, login, network, device string) (attempt, error) {
	var a attempt
	ofDevice, ofNetwork := devicePlace(device), "network "+network
	if device != "" {
		known, err := s.knows(ctx, login, ofDevice, knownDevice)
		if err != nil {
			return nil, err
		}
		if known {
			err := s.say(network, a.take(s.limits.byPlace, login+"\x00"+ofDevice))
			return a, err
		}
	}
	if err := a.take(s.limits.byAddress, network); err != nil {
		return nil, s.say(network, err)
	}
	if err := a.take(s.limits.byPlace, login+"\x00"+ofNetwork); err != nil {
		return nil, s.say(network, err)
	}
	known, err := s.knows(ctx, login, ofNetwork, knownNetwork)
	if err != nil || known {
		return a, err
	}
	if wait := s.limits.byStrangers.until(login, s.AttemptsPerLogin); wait > 0 {
		if err := a.take(s.limits.late, login+"\x00"+ofNetwork); err != nil {
			err.RetryAfter = min(err.RetryAfter, wait)
			return nil, s.say(network, err)
		}
	}
	err = s.say(network, a.take(s.limits.byStrangers, login))
	return a, err
}

// Attempt takes an attempt for a sign-in that is made elsewhere than in SignIn, so that nobody guesses there what he may
// not guess here. good gives it back: it was no guess. Errors are *TooManyError.
func (s *Service) Attempt(ctx context.Context, login string, from netip.Addr) (good func(), err error) {
	tried, err := s.admit(ctx, strings.ToLower(login), addressKey(from), "")
	return tried.giveBack, err
}

// say marks an error that comes again and again, and is nil for nil.
func (s *Service) say(network string, e *TooManyError) error {
	if e == nil {
		return nil
	}
	_, first := s.limits.said.take(network)
	e.Again = !first
	return e
}

func devicePlace(device string) string { return "device " + hashOf("device", device) }

const (
	sqlKnownPlace = `SELECT COUNT(*) FROM known_places WHERE login_hash = ? AND place_hash = ? AND last_used_ms > ?`
	sqlKnowPlace  = `INSERT INTO known_places (login_hash, place_hash, last_used_ms) VALUES (?, ?, ?)
		ON CONFLICT (login_hash, place_hash) DO UPDATE SET last_used_ms = excluded.last_used_ms`
	sqlLimitPlaces = `DELETE FROM known_places WHERE login_hash = ? AND place_hash IN (SELECT place_hash FROM known_places
		WHERE login_hash = ? ORDER BY last_used_ms DESC, place_hash LIMIT 1000 OFFSET ?)`
	sqlPurgePlaces = `DELETE FROM known_places WHERE last_used_ms <= ?`
)

// placeHashes are the hashes of a login and a place, under the key that seals now and those before it: without the
// key, the table tells neither who is in it nor where he was.
func (s *Service) placeHashes(login, place string) (all [][2]string, err error) {
	keys, err := s.Keys.Derive("known places")
	if err != nil {
		return nil, fmt.Errorf("derive key of known places: %w", err)
	}
	for _, key := range keys {
		sum := func(text string) string {
			h := hmac.New(sha256.New, key)
			_, _ = h.Write([]byte(text)) // never fails (hash.Hash)
			return hex.EncodeToString(h.Sum(nil))
		}
		all = append(all, [2]string{sum("login\x00" + login), sum("place\x00" + login + "\x00" + place)})
	}
	return all, nil
}

// knows says whether somebody signed in with a login at a place within a time.
func (s *Service) knows(ctx context.Context, login, place string, within time.Duration) (bool, error) {
	hashes, err := s.placeHashes(login, place)
	if err != nil {
		return false, err
	}
	for _, h := range hashes {
		var n int64
		if err := s.DB.QueryRow(ctx, sqlKnownPlace, h[0], h[1], db.Millis(s.Now().Add(-within))).Scan(&n); err != nil {
			return false, fmt.Errorf("find known place: %w", err)
		}
		if n > 0 {
			return true, nil
		}
	}
	return false, nil
}

// remember notes, in the transaction that opens a session, where it was opened from.
func (s *Service) remember(ctx context.Context, tx *db.Tx, login, network, device string) error {
	now := s.Now()
	places := []string{"network " + network}
	if device != "" {
		places = append(places, devicePlace(device))
	}
	if _, err := tx.Exec(ctx, sqlPurgePlaces, db.Millis(now.Add(-knownDevice))); err != nil {
		return err
	}
	for _, place := range places {
		hashes, err := s.placeHashes(login, place)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, sqlKnowPlace, hashes[0][0], hashes[0][1], db.Millis(now)); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, sqlLimitPlaces, hashes[0][0], hashes[0][0], maxPlaces); err != nil {
			return err
		}
	}
	return nil
}
