package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/posthorn-mail/posthorn/internal/config"
)

// How long certificates are good for, and how much earlier than now they begin, for clocks that are late.
const (
	authorityLife   = 20 * 365 * 24 * time.Hour
	certificateLife = 3 * 365 * 24 * time.Hour
	certificateSlew = time.Hour
)

func (c *cli) busCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "bus", Short: "Prepare the connections between nodes"}
	cmd.AddCommand(c.busCertificates())
	return cmd
}

func (c *cli) busCertificates() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "certificates DIR NODE...",
		Short: "Make the certificates with which nodes know each other",
		Long: `Make, in DIR, a certificate authority (ca.pem, ca.key) unless there is one, and a certificate and a key for
each NODE (NODE.pem, NODE.key), for the keys ca_file, certificate_file and key_file of the section bus. They are good
for three years. Existing certificates of nodes are made anew; no server is asked.

Each node needs ca.pem and its own two files. Keep ca.key away from the nodes: who has it can make nodes.`,
		Example: "  posthorn bus certificates ./bus node1 node2 node3",
		Args:    cobra.MinimumNArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			made, err := makeCertificates(args[0], args[1:], time.Now())
			if err != nil {
				return err
			}
			return c.done(map[string][]string{"made": made}, "Made %s.", strings.Join(made, ", "))
		},
	}
	c.jsonFlag(cmd)
	return cmd
}

var nodeFile = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$`)

// makeCertificates returns the paths of what it made.
func makeCertificates(dir string, nodes []string, now time.Time) (made []string, err error) {
	for _, n := range nodes {
		if !nodeFile.MatchString(n) || n == "ca" {
			return nil, usagef("%q cannot be the name of a node's files: use letters, digits, dots, hyphens and underscores", n)
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory: %w", err)
	}
	path := func(name string) string { return filepath.Join(dir, name) }
	ca, err := tls.LoadX509KeyPair(path("ca.pem"), path("ca.key"))
	if errors.Is(err, fs.ErrNotExist) {
		for _, half := range []string{"ca.pem", "ca.key"} {
			if _, err := os.Stat(path(half)); err == nil {
				return nil, fmt.Errorf("%s is there, but not the other half of the authority: bring both ca.pem and ca.key, or choose another directory", path(half))
			}
		}
		made = append(made, path("ca.pem"), path("ca.key"))
		err = writeCertificate(path("ca"), &x509.Certificate{
			Subject: pkix.Name{CommonName: "Posthorn cluster"}, NotBefore: now.Add(-certificateSlew), NotAfter: now.Add(authorityLife),
			IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		}, nil)
		if err == nil {
			ca, err = tls.LoadX509KeyPair(path("ca.pem"), path("ca.key"))
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open the certificate authority: %w", err)
	}
	for _, n := range nodes {
		err := writeCertificate(path(n), &x509.Certificate{
			Subject: pkix.Name{CommonName: n}, DNSNames: []string{config.BusCertificateName},
			NotBefore: now.Add(-certificateSlew), NotAfter: now.Add(certificateLife), KeyUsage: x509.KeyUsageDigitalSignature,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		}, &ca)
		if err != nil {
			return made, fmt.Errorf("make the certificate of %s: %w", n, err)
		}
		made = append(made, path(n+".pem"), path(n+".key"))
	}
	return made, nil
}

// writeCertificate makes a key and a certificate, which ca signs, or, without it, the key itself.
func writeCertificate(path string, template *x509.Certificate, ca *tls.Certificate) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)); err != nil {
		return err
	}
	parent, signer := template, any(key)
	if ca != nil {
		parent, signer = ca.Leaf, ca.PrivateKey
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		return err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := writeNew(path+".key", 0o600, &pem.Block{Type: "PRIVATE KEY", Bytes: secret}); err != nil {
		return err
	}
	return writeNew(path+".pem", 0o644, &pem.Block{Type: "CERTIFICATE", Bytes: raw})
}

// writeNew replaces a file, so that the mode is that of a new one.
func writeNew(path string, mode fs.FileMode, block *pem.Block) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode) //nolint:gosec // the operator's own choice
	if err != nil {
		return err
	}
	return errors.Join(pem.Encode(f, block), f.Close())
}
