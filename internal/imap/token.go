package imap

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// maxToken bounds an access token, in bytes: signed ones with many claims are long.
const maxToken = 16 << 10

// LoginToken logs in with an OAuth 2 access token: by OAUTHBEARER (RFC 7628) where offered, else by XOAUTH2,
// which Google and Microsoft had before it. Errors are as Login's: after [ErrAuth] the token is not good (any
// more), and the caller gets a new one. What the server says of the reason is in the error.
func (c *Client) LoginToken(ctx context.Context, user, token string) error {
	var challenge string // what the server says is wrong, before it refuses
	err := c.login(ctx, func() (command, error) {
		cmd, err := c.tokenCommand(user, token)
		if reply := cmd.reply; reply != nil {
			cmd.reply = func(text string) string {
				if text != "" {
					challenge = text
				}
				return reply(text)
			}
		}
		return cmd, err
	}, credential{"login", user}, credential{"token", token})
	if err == nil || challenge == "" {
		return err
	}
	status := tokenError(challenge)
	switch {
	case status == "" || strings.Contains(strings.ToUpper(status), strings.ToUpper(token)):
		return err
	case strings.HasPrefix(status, "5"): // an HTTP status of the token's issuer: its trouble, not the token's
		return fmt.Errorf("imap: log in: token cannot be checked (status %q): %v", status, err) //nolint:errorlint // no verdict
	}
	return fmt.Errorf("%w (status %q)", err, status)
}

// tokenCommand picks the mechanism that the server offers.
func (c *Client) tokenCommand(user, token string) (command, error) {
	switch {
	case c.Has("AUTH=OAUTHBEARER"):
		// RFC 5801 section 4: a "," or "=" in the name is escaped.
		name := strings.NewReplacer("=", "=3D", ",", "=2C").Replace(user)
		cfg := &c.srv.cfg
		first := "n,a=" + name + ",\x01host=" + cfg.Host + "\x01port=" + strconv.Itoa(cfg.Port) + "\x01auth=Bearer " + token + "\x01\x01"
		// RFC 7628 section 3.2.3: the client ends the failed exchange with %x01.
		return c.saslCommand("OAUTHBEARER", base64.StdEncoding.EncodeToString([]byte(first)), "AQ==", token), nil
	case c.Has("AUTH=XOAUTH2"):
		first := "user=" + user + "\x01auth=Bearer " + token + "\x01\x01"
		return c.saslCommand("XOAUTH2", base64.StdEncoding.EncodeToString([]byte(first)), "", token), nil
	case !c.secure:
		return command{}, fmt.Errorf("%w: server takes no token here", ErrInsecure)
	default:
		return command{}, fmt.Errorf("login by token (OAUTHBEARER, XOAUTH2) is %w", ErrUnsupported)
	}
}

// tokenError is the status in a server's challenge, base64 of JSON (RFC 7628 section 3.2.2), or "".
func tokenError(challenge string) string {
	if len(challenge) > maxToken {
		return ""
	}
	text, err := base64.StdEncoding.DecodeString(strings.TrimSpace(challenge))
	if err != nil {
		return ""
	}
	var said struct {
		Status string `json:"status"`
	}
	if json.Unmarshal(text, &said) != nil {
		return ""
	}
	return cutError(said.Status)
}
