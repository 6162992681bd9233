package settings

import "path/filepath"

// auditStdout is the AUDIT_LOG that means standard output.
const auditStdout = "stdout"

func (s Settings) auditMistakes(c *checker) {
	c.check(s.AuditLog == "" || s.AuditLog == auditStdout || filepath.IsAbs(s.AuditLog), "AUDIT_LOG",
		"is not understood; use stdout, or the absolute path of a file")
	c.check(s.AuditLog == "" || s.AuditKeyFile != "", "AUDIT_LOG",
		"needs a key to name users by pseudonyms; set AUDIT_KEY_FILE")
	c.check(s.AuditLog != "" || s.AuditKeyFile == "", "AUDIT_KEY_FILE", "is set but AUDIT_LOG is not; set both or neither")
}
