package server

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/posthorn-mail/posthorn/internal/config"
	"github.com/posthorn-mail/posthorn/internal/seal"
	"github.com/posthorn-mail/posthorn/internal/tenant"
	"github.com/posthorn-mail/posthorn/internal/webpush"
)

// The files that the first start makes in the state directory, all with mode 0600.
const (
	SealKeyFile        = "seal.key"
	NotifyPasswordFile = "notify-password"
	VAPIDKeyFile       = "vapid.pem"
	NodeIDFile         = "node-id"
	lockFile           = "lock"
)

// state is the opened state directory.
type state struct {
	dir            string
	lock           *os.File
	node           string        // names this server among those on its database
	keys           *seal.Keyring // set by openKeys
	notifyPassword string
	vapidKey       []byte // PEM
}

// openState makes the directory and its files where they are missing, and locks it: two servers on one
// directory would send everything twice.
func openState(cfg *config.Config) (st *state, err error) {
	st = &state{dir: cfg.StateDir}
	if err := os.MkdirAll(st.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make state directory: %w", err)
	}
	info, err := os.Stat(st.dir)
	if err != nil {
		return nil, fmt.Errorf("open state directory: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		if err := os.Chmod(st.dir, 0o700); err != nil { //nolint:gosec // a directory must be searchable by its owner
			return nil, fmt.Errorf("state directory %s can be read by others: %w", st.dir, err)
		}
	}
	if st.lock, err = lockDir(st.dir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, st.close())
		}
	}()
	node, err := st.file(NodeIDFile, func() (string, error) { return rand.Text() + "\n", nil })
	if err != nil {
		return nil, err
	}
	if st.node = strings.TrimSpace(node); st.node == "" {
		return nil, fmt.Errorf("%s is empty: remove it to have a new one made", filepath.Join(st.dir, NodeIDFile))
	}
	if cfg.Internal.Notify.Password.IsSet() {
		st.notifyPassword = cfg.Internal.Notify.Password.Reveal()
	} else {
		text, err := st.file(NotifyPasswordFile, func() (string, error) { return tenant.NewPassword() + "\n", nil })
		if err != nil {
			return nil, err
		}
		st.notifyPassword = strings.TrimSpace(text)
		if st.notifyPassword == "" {
			return nil, fmt.Errorf("%s is empty: remove it to have a new one made", filepath.Join(st.dir, NotifyPasswordFile))
		}
	}
	if !cfg.Transports.WebPush.Enabled {
		return st, nil
	}
	if cfg.Transports.WebPush.VAPIDKey.IsSet() {
		st.vapidKey = []byte(cfg.Transports.WebPush.VAPIDKey.Reveal())
		return st, nil
	}
	text, err := st.file(VAPIDKeyFile, newVAPIDKey)
	st.vapidKey = []byte(text)
	return st, err
}

// openKeys makes the ring of keys: the passphrase's, if there is one, then those of seal.key, then those of old
// passphrases. Beside a passphrase, seal.key is used if it is there, and not made.
func (st *state) openKeys(cfg *config.Config, salt string) error {
	var rings []*seal.Keyring
	fromPassphrase := func(s config.Secret) error {
		ring, err := seal.FromPassphrase(s.Reveal(), salt)
		rings = append(rings, ring)
		return err
	}
	c := cfg.Credentials
	if c.Passphrase.IsSet() {
		if err := fromPassphrase(c.Passphrase); err != nil {
			return err
		}
	}
	path := filepath.Join(st.dir, SealKeyFile)
	if _, err := os.Stat(path); err == nil || !c.Passphrase.IsSet() {
		text, err := st.file(SealKeyFile, seal.NewKeyFile)
		if err != nil {
			return err
		}
		ring, err := seal.ParseKeyFile(text)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		rings = append(rings, ring)
	}
	for _, old := range c.OldPassphrases {
		if err := fromPassphrase(old.Passphrase); err != nil {
			return err
		}
	}
	if c.Passphrase.IsSet() {
		debug.FreeOSMemory() // argon2's 64 MiB, which nothing needs again
	}
	st.keys = seal.Join(rings...)
	return nil
}

func newVAPIDKey() (string, error) {
	key, err := webpush.GenerateKey()
	if err != nil {
		return "", err
	}
	text, err := webpush.MarshalKey(key)
	return string(text), err
}

func (st *state) close() error {
	// Said, not only closed: a process that somebody starts in this moment has the file open a little longer.
	return errors.Join(unix.Flock(int(st.lock.Fd()), unix.LOCK_UN), st.lock.Close())
}

// file reads a file of the state directory, or makes it. A new file is complete and on disk before it
// has its name: a crash leaves all of it or none.
func (st *state) file(name string, content func() (string, error)) (string, error) {
	path := filepath.Join(st.dir, name)
	raw, err := os.ReadFile(path) //nolint:gosec // a fixed name in our own directory
	if err == nil {
		return string(raw), nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("read %s: %w", name, err)
	}
	text, err := content()
	if err != nil {
		return "", fmt.Errorf("make %s: %w", name, err)
	}
	tmp, err := os.CreateTemp(st.dir, name+".new-*") // mode 0600
	if err != nil {
		return "", fmt.Errorf("make %s: %w", name, err)
	}
	defer func() { _ = os.Remove(tmp.Name()) }() // there only if something failed
	_, err = tmp.WriteString(text)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err == nil {
		err = syncDir(st.dir)
	}
	if err != nil {
		return "", fmt.Errorf("make %s: %w", name, err)
	}
	return text, nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir) //nolint:gosec // our own directory
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600) //nolint:gosec // a fixed name in our own directory
	if err != nil {
		return nil, fmt.Errorf("lock state directory: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = fmt.Errorf("another posthorn uses the state directory %s: stop it, or choose another state_dir", dir)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
