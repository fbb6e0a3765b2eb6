/*M!999999\- enable the sandbox mode */ 
-- MariaDB dump 10.19  Distrib 10.11.19-MariaDB, for debian-linux-gnu (x86_64)
--
-- Host: localhost    Database: oxdatabase_5
-- ------------------------------------------------------
-- Server version	10.11.19-MariaDB-0+deb12u1

/*!40101 SET @OLD_CHARACTER_SET_CLIENT=@@CHARACTER_SET_CLIENT */;
/*!40101 SET @OLD_CHARACTER_SET_RESULTS=@@CHARACTER_SET_RESULTS */;
/*!40101 SET @OLD_COLLATION_CONNECTION=@@COLLATION_CONNECTION */;
/*!40101 SET NAMES latin1 */;
/*!40103 SET @OLD_TIME_ZONE=@@TIME_ZONE */;
/*!40103 SET TIME_ZONE='+00:00' */;
/*!40014 SET @OLD_UNIQUE_CHECKS=@@UNIQUE_CHECKS, UNIQUE_CHECKS=0 */;
/*!40014 SET @OLD_FOREIGN_KEY_CHECKS=@@FOREIGN_KEY_CHECKS, FOREIGN_KEY_CHECKS=0 */;
/*!40101 SET @OLD_SQL_MODE=@@SQL_MODE, SQL_MODE='NO_AUTO_VALUE_ON_ZERO' */;
/*!40111 SET @OLD_SQL_NOTES=@@SQL_NOTES, SQL_NOTES=0 */;

--
-- Table structure for table `mobileEventSubscriptions`
--

DROP TABLE IF EXISTS mobileEventSubscriptions;
/*!40101 SET @saved_cs_client     = @@character_set_client */;
/*!40101 SET character_set_client = utf8mb4 */;
CREATE TABLE mobileEventSubscriptions (
  cid int(10) unsigned NOT NULL,
  service varchar(64) NOT NULL,
  token varchar(255) NOT NULL,
  provider varchar(64) NOT NULL,
  `user` int(10) unsigned NOT NULL,
  `timestamp` bigint(64) NOT NULL,
  blockLoginPushUntil bigint(64) NOT NULL DEFAULT 0,
  PRIMARY KEY (cid,service,token,provider),
  KEY dup (cid,service,token,provider)
) ENGINE=InnoDB DEFAULT CHARSET=ascii COLLATE=ascii_general_ci;
/*!40101 SET character_set_client = @saved_cs_client */;

--
-- Dumping data for table `mobileEventSubscriptions`
--

LOCK TABLES mobileEventSubscriptions WRITE;
/*!40000 ALTER TABLE mobileEventSubscriptions DISABLE KEYS */;
INSERT INTO mobileEventSubscriptions VALUES
(1,'apn','a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1','calendar',3,1700000000000,0),
(1,'apn','a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1','mail',3,1700000000000,0),
(1,'baidu','cReg1:APA91bxxxxxxxxxxxxxxxxxxxxxxxxxx','mail',4,1700000100000,0),
(1,'gcm','cReg1:APA91bxxxxxxxxxxxxxxxxxxxxxxxxxx','mail',4,1700000100000,0);
/*!40000 ALTER TABLE mobileEventSubscriptions ENABLE KEYS */;
UNLOCK TABLES;

--
-- Table structure for table `pns_subscription`
--

DROP TABLE IF EXISTS pns_subscription;
/*!40101 SET @saved_cs_client     = @@character_set_client */;
/*!40101 SET character_set_client = utf8mb4 */;
CREATE TABLE pns_subscription (
  `id` binary(16) NOT NULL,
  cid int(10) unsigned NOT NULL,
  `user` int(10) unsigned NOT NULL,
  token varchar(255) NOT NULL,
  `client` varchar(64) NOT NULL,
  transport varchar(32) NOT NULL,
  last_modified bigint(20) NOT NULL,
  all_flag tinyint(3) unsigned NOT NULL DEFAULT 0,
  expires bigint(20) DEFAULT NULL,
  PRIMARY KEY (cid,`user`,token),
  UNIQUE KEY `id` (`id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;
/*!40101 SET character_set_client = @saved_cs_client */;

--
-- Dumping data for table `pns_subscription`
--

LOCK TABLES pns_subscription WRITE;
/*!40000 ALTER TABLE pns_subscription DISABLE KEYS */;
INSERT INTO pns_subscription VALUES
('',1,3,'<b4b4>','open-xchange-mobile-api-facade','apn',1710000000000,1,NULL),
('\0\'\"\\\n\r\Z	%ÿ€',1,3,'b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1','open-xchange-mobile-api-facade','apn',1710000000000,0,NULL),
('\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n',1,3,'b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3','open-xchange-mobile-api-facade','apns_http2',1710000000000,1,1700000000000),
('\r\r\r\r\r\r\r\r\r\r\r\r\r\r\r\r',1,3,'b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5','an app; with spaces','apn',1710000000000,1,NULL),
('\'\'\'\'\'\'\'\'\'\'\'\'\'\'\'\'',1,3,'wstoken','open-xchange-appsuite','websocket',1710000000000,1,NULL),
('                ',1,4,'b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2','open-xchange-mobile-api-facade','apn',9223372036854775807,0,NULL),
('\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\',1,4,'cReg2:APA91bxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx','open-xchange-mobile-api-facade','gcm',1710000000000,1,9223372036854775807),
('',7,77,'b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4','open-xchange-mobile-api-facade','apn',1710000000000,1,NULL);
/*!40000 ALTER TABLE pns_subscription ENABLE KEYS */;
UNLOCK TABLES;

--
-- Table structure for table `pns_subscription_topic_exact`
--

DROP TABLE IF EXISTS pns_subscription_topic_exact;
/*!40101 SET @saved_cs_client     = @@character_set_client */;
/*!40101 SET character_set_client = utf8mb4 */;
CREATE TABLE pns_subscription_topic_exact (
  `id` binary(16) NOT NULL,
  cid int(10) unsigned NOT NULL,
  topic varchar(255) NOT NULL,
  PRIMARY KEY (`id`,topic)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;
/*!40101 SET character_set_client = @saved_cs_client */;

--
-- Dumping data for table `pns_subscription_topic_exact`
--

LOCK TABLES pns_subscription_topic_exact WRITE;
/*!40000 ALTER TABLE pns_subscription_topic_exact DISABLE KEYS */;
INSERT INTO pns_subscription_topic_exact VALUES
('\0\'\"\\\n\r\Z	%ÿ€',1,'ox:mail:new');
/*!40000 ALTER TABLE pns_subscription_topic_exact ENABLE KEYS */;
UNLOCK TABLES;

--
-- Table structure for table `pns_subscription_topic_wildcard`
--

DROP TABLE IF EXISTS pns_subscription_topic_wildcard;
/*!40101 SET @saved_cs_client     = @@character_set_client */;
/*!40101 SET character_set_client = utf8mb4 */;
CREATE TABLE pns_subscription_topic_wildcard (
  `id` binary(16) NOT NULL,
  cid int(10) unsigned NOT NULL,
  topic varchar(255) NOT NULL,
  PRIMARY KEY (`id`,topic)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;
/*!40101 SET character_set_client = @saved_cs_client */;

--
-- Dumping data for table `pns_subscription_topic_wildcard`
--

LOCK TABLES pns_subscription_topic_wildcard WRITE;
/*!40000 ALTER TABLE pns_subscription_topic_wildcard DISABLE KEYS */;
INSERT INTO pns_subscription_topic_wildcard VALUES
('                ',1,'ox:mail:');
/*!40000 ALTER TABLE pns_subscription_topic_wildcard ENABLE KEYS */;
UNLOCK TABLES;

--
-- Table structure for table `user`
--

DROP TABLE IF EXISTS user;
/*!40101 SET @saved_cs_client     = @@character_set_client */;
/*!40101 SET character_set_client = utf8mb4 */;
CREATE TABLE `user` (
  cid int(10) unsigned NOT NULL,
  `id` int(10) unsigned NOT NULL,
  imapServer varchar(128) DEFAULT NULL,
  imapLogin varchar(128) DEFAULT NULL,
  mail varchar(256) DEFAULT NULL,
  mailEnabled tinyint(1) DEFAULT NULL,
  userPassword varchar(128) DEFAULT NULL,
  PRIMARY KEY (cid,`id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;
/*!40101 SET character_set_client = @saved_cs_client */;

--
-- Dumping data for table `user`
--

LOCK TABLES user WRITE;
/*!40000 ALTER TABLE user DISABLE KEYS */;
INSERT INTO user VALUES
(1,2,'imap://localhost',NULL,'oxadmin@example.org',1,'{CRYPT}hash'),
(1,3,'imaps://imap.example.org','anna@example.org','anna@example.org',1,'it\'s \\ \'x;'),
(1,4,'imaps://imap.example.org','börn;\"x\"@example.org','b@example.org',1,''),
(1,5,'imap://localhost','tab	login','c@example.org',0,NULL),
(1,6,'imaps://imap.example.org','  spacey ','d@example.org',1,NULL);
/*!40000 ALTER TABLE user ENABLE KEYS */;
UNLOCK TABLES;
/*!50003 SET @saved_cs_client      = @@character_set_client */ ;
/*!50003 SET @saved_cs_results     = @@character_set_results */ ;
/*!50003 SET @saved_col_connection = @@collation_connection */ ;
/*!50003 SET character_set_client  = utf8mb3 */ ;
/*!50003 SET character_set_results = utf8mb3 */ ;
/*!50003 SET collation_connection  = utf8mb3_general_ci */ ;
/*!50003 SET @saved_sql_mode       = @@sql_mode */ ;
/*!50003 SET sql_mode              = 'STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_AUTO_CREATE_USER,NO_ENGINE_SUBSTITUTION' */ ;
DELIMITER ;;
/*!50003 CREATE*/ /*!50017 DEFINER=`root`@`localhost`*/ /*!50003 TRIGGER tr AFTER DELETE ON user FOR EACH ROW BEGIN INSERT INTO registeredPush VALUES (OLD.cid, OLD.id, 'x'); END 
*/;;
DELIMITER ;
/*!50003 SET sql_mode              = @saved_sql_mode */ ;
/*!50003 SET character_set_client  = @saved_cs_client */ ;
/*!50003 SET character_set_results = @saved_cs_results */ ;
/*!50003 SET collation_connection  = @saved_col_connection */ ;

--
-- Table structure for table `login2user`
--

DROP TABLE IF EXISTS login2user;
/*!40101 SET @saved_cs_client     = @@character_set_client */;
/*!40101 SET character_set_client = utf8mb4 */;
CREATE TABLE login2user (
  cid int(10) unsigned NOT NULL,
  `id` int(10) unsigned NOT NULL,
  uid varchar(128) NOT NULL,
  PRIMARY KEY (cid,uid)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;
/*!40101 SET character_set_client = @saved_cs_client */;

--
-- Dumping data for table `login2user`
--

LOCK TABLES login2user WRITE;
/*!40000 ALTER TABLE login2user DISABLE KEYS */;
INSERT INTO login2user VALUES
(1,3,'anna'),
(1,4,'bert'),
(1,5,'c'),
(1,6,'d'),
(1,2,'oxadmin');
/*!40000 ALTER TABLE login2user ENABLE KEYS */;
UNLOCK TABLES;

--
-- Table structure for table `user_attribute`
--

DROP TABLE IF EXISTS user_attribute;
/*!40101 SET @saved_cs_client     = @@character_set_client */;
/*!40101 SET character_set_client = utf8mb4 */;
CREATE TABLE user_attribute (
  cid int(10) unsigned NOT NULL,
  `id` int(10) unsigned NOT NULL,
  `name` varchar(128) DEFAULT NULL,
  `value` text DEFAULT NULL,
  uuid binary(16) NOT NULL,
  PRIMARY KEY (cid,uuid)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;
/*!40101 SET character_set_client = @saved_cs_client */;

--
-- Dumping data for table `user_attribute`
--

LOCK TABLES user_attribute WRITE;
/*!40000 ALTER TABLE user_attribute DISABLE KEYS */;
INSERT INTO user_attribute VALUES
(1,3,'config/com.openexchange.capability.mobile_mail_app','false','\'\'\'\'\'\'\'\'\'\'\'\'\'\'\'\''),
(1,4,'alias','x@y','\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\'),
(8,4,'config/com.openexchange.capability.mobile_mail_app','true',']]]]]]]]]]]]]]]]');
/*!40000 ALTER TABLE user_attribute ENABLE KEYS */;
UNLOCK TABLES;

--
-- Table structure for table `registeredPush`
--

DROP TABLE IF EXISTS registeredPush;
/*!40101 SET @saved_cs_client     = @@character_set_client */;
/*!40101 SET character_set_client = utf8mb4 */;
CREATE TABLE registeredPush (
  cid int(10) unsigned NOT NULL,
  `user` int(10) unsigned NOT NULL,
  `client` varchar(64) CHARACTER SET latin1 COLLATE latin1_swedish_ci NOT NULL,
  PRIMARY KEY (cid,`user`,`client`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;
/*!40101 SET character_set_client = @saved_cs_client */;

--
-- Dumping data for table `registeredPush`
--

LOCK TABLES registeredPush WRITE;
/*!40000 ALTER TABLE registeredPush DISABLE KEYS */;
INSERT INTO registeredPush VALUES
(1,3,'open-xchange-mailapp');
/*!40000 ALTER TABLE registeredPush ENABLE KEYS */;
UNLOCK TABLES;

--
-- Table structure for table `credentials`
--

DROP TABLE IF EXISTS credentials;
/*!40101 SET @saved_cs_client     = @@character_set_client */;
/*!40101 SET character_set_client = utf8mb4 */;
CREATE TABLE credentials (
  cid int(10) unsigned NOT NULL,
  `user` int(10) unsigned NOT NULL,
  `password` varchar(64) DEFAULT NULL,
  login varchar(64) DEFAULT NULL,
  PRIMARY KEY (cid,`user`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;
/*!40101 SET character_set_client = @saved_cs_client */;

--
-- Dumping data for table `credentials`
--

LOCK TABLES credentials WRITE;
/*!40000 ALTER TABLE credentials DISABLE KEYS */;
INSERT INTO credentials VALUES
(1,3,'se\'aled;\\','anna');
/*!40000 ALTER TABLE credentials ENABLE KEYS */;
UNLOCK TABLES;
/*!40103 SET TIME_ZONE=@OLD_TIME_ZONE */;

/*!40101 SET SQL_MODE=@OLD_SQL_MODE */;
/*!40014 SET FOREIGN_KEY_CHECKS=@OLD_FOREIGN_KEY_CHECKS */;
/*!40014 SET UNIQUE_CHECKS=@OLD_UNIQUE_CHECKS */;
/*!40101 SET CHARACTER_SET_CLIENT=@OLD_CHARACTER_SET_CLIENT */;
/*!40101 SET CHARACTER_SET_RESULTS=@OLD_CHARACTER_SET_RESULTS */;
/*!40101 SET COLLATION_CONNECTION=@OLD_COLLATION_CONNECTION */;
/*!40111 SET SQL_NOTES=@OLD_SQL_NOTES */;

-- Dump completed
