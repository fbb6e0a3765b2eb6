/*M!999999\- enable the sandbox mode */ 
-- MariaDB dump 10.19  Distrib 10.11.19-MariaDB, for debian-linux-gnu (x86_64)
--
-- Host: localhost    Database: oxdatabase_5
-- ------------------------------------------------------
-- Server version	10.11.19-MariaDB-0+deb12u1
/*!40103 SET @OLD_TIME_ZONE=@@TIME_ZONE */;
/*!40103 SET TIME_ZONE='+00:00' */;
/*!40014 SET @OLD_FOREIGN_KEY_CHECKS=@@FOREIGN_KEY_CHECKS, FOREIGN_KEY_CHECKS=0 */;
/*!40101 SET @OLD_SQL_MODE=@@SQL_MODE, SQL_MODE='NO_AUTO_VALUE_ON_ZERO,ANSI' */;
/*!40111 SET @OLD_SQL_NOTES=@@SQL_NOTES, SQL_NOTES=0 */;

--
-- Dumping data for table "mobileEventSubscriptions"
--

LOCK TABLES "mobileEventSubscriptions" WRITE;
/*!40000 ALTER TABLE "mobileEventSubscriptions" DISABLE KEYS */;
INSERT IGNORE INTO "mobileEventSubscriptions" ("cid", "service", "token", "provider", "user", "timestamp", "blockLoginPushUntil") VALUES (1,'apn','a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1','calendar',3,1700000000000,0),
(1,'apn','a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1','mail',3,1700000000000,0),
(1,'baidu','cReg1:APA91bxxxxxxxxxxxxxxxxxxxxxxxxxx','mail',4,1700000100000,0),
(1,'gcm','cReg1:APA91bxxxxxxxxxxxxxxxxxxxxxxxxxx','mail',4,1700000100000,0);
/*!40000 ALTER TABLE "mobileEventSubscriptions" ENABLE KEYS */;
UNLOCK TABLES;

--
-- Dumping data for table "pns_subscription"
--

LOCK TABLES "pns_subscription" WRITE;
/*!40000 ALTER TABLE "pns_subscription" DISABLE KEYS */;
INSERT IGNORE INTO "pns_subscription" ("id", "cid", "user", "token", "client", "transport", "last_modified", "all_flag", "expires") VALUES ('',1,3,'<b4b4>','open-xchange-mobile-api-facade','apn',1710000000000,1,NULL),
('\0\'\"\\\n\r\Z	%ÿ€',1,3,'b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1','open-xchange-mobile-api-facade','apn',1710000000000,0,NULL),
('\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n',1,3,'b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3','open-xchange-mobile-api-facade','apns_http2',1710000000000,1,1700000000000),
('\r\r\r\r\r\r\r\r\r\r\r\r\r\r\r\r',1,3,'b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5','an app; with spaces','apn',1710000000000,1,NULL),
('\'\'\'\'\'\'\'\'\'\'\'\'\'\'\'\'',1,3,'wstoken','open-xchange-appsuite','websocket',1710000000000,1,NULL),
('                ',1,4,'b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2','open-xchange-mobile-api-facade','apn',9223372036854775807,0,NULL),
('\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\',1,4,'cReg2:APA91bxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx','open-xchange-mobile-api-facade','gcm',1710000000000,1,9223372036854775807),
('',7,77,'b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4','open-xchange-mobile-api-facade','apn',1710000000000,1,NULL);
/*!40000 ALTER TABLE "pns_subscription" ENABLE KEYS */;
UNLOCK TABLES;

--
-- Dumping data for table "pns_subscription_topic_exact"
--

LOCK TABLES "pns_subscription_topic_exact" WRITE;
/*!40000 ALTER TABLE "pns_subscription_topic_exact" DISABLE KEYS */;
INSERT IGNORE INTO "pns_subscription_topic_exact" ("id", "cid", "topic") VALUES ('\0\'\"\\\n\r\Z	%ÿ€',1,'ox:mail:new');
/*!40000 ALTER TABLE "pns_subscription_topic_exact" ENABLE KEYS */;
UNLOCK TABLES;

--
-- Dumping data for table "pns_subscription_topic_wildcard"
--

LOCK TABLES "pns_subscription_topic_wildcard" WRITE;
/*!40000 ALTER TABLE "pns_subscription_topic_wildcard" DISABLE KEYS */;
INSERT IGNORE INTO "pns_subscription_topic_wildcard" ("id", "cid", "topic") VALUES ('                ',1,'ox:mail:');
/*!40000 ALTER TABLE "pns_subscription_topic_wildcard" ENABLE KEYS */;
UNLOCK TABLES;

--
-- Dumping data for table "user"
--

LOCK TABLES "user" WRITE;
/*!40000 ALTER TABLE "user" DISABLE KEYS */;
INSERT IGNORE INTO "user" ("cid", "id", "imapServer", "imapLogin", "mail", "mailEnabled", "userPassword") VALUES (1,2,'imap://localhost',NULL,'oxadmin@example.org',1,'{CRYPT}hash'),
(1,3,'imaps://imap.example.org','anna@example.org','anna@example.org',1,'it\'s \\ \'x;'),
(1,4,'imaps://imap.example.org','börn;\"x\"@example.org','b@example.org',1,''),
(1,5,'imap://localhost','tab	login','c@example.org',0,NULL),
(1,6,'imaps://imap.example.org','  spacey ','d@example.org',1,NULL);
/*!40000 ALTER TABLE "user" ENABLE KEYS */;
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
-- Dumping data for table "login2user"
--

LOCK TABLES "login2user" WRITE;
/*!40000 ALTER TABLE "login2user" DISABLE KEYS */;
INSERT IGNORE INTO "login2user" ("cid", "id", "uid") VALUES (1,3,'anna'),
(1,4,'bert'),
(1,5,'c'),
(1,6,'d'),
(1,2,'oxadmin');
/*!40000 ALTER TABLE "login2user" ENABLE KEYS */;
UNLOCK TABLES;

--
-- Dumping data for table "user_attribute"
--

LOCK TABLES "user_attribute" WRITE;
/*!40000 ALTER TABLE "user_attribute" DISABLE KEYS */;
INSERT IGNORE INTO "user_attribute" ("cid", "id", "name", "value", "uuid") VALUES (1,3,'config/com.openexchange.capability.mobile_mail_app','false','\'\'\'\'\'\'\'\'\'\'\'\'\'\'\'\''),
(1,4,'alias','x@y','\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\'),
(8,4,'config/com.openexchange.capability.mobile_mail_app','true',']]]]]]]]]]]]]]]]');
/*!40000 ALTER TABLE "user_attribute" ENABLE KEYS */;
UNLOCK TABLES;

--
-- Dumping data for table "registeredPush"
--

LOCK TABLES "registeredPush" WRITE;
/*!40000 ALTER TABLE "registeredPush" DISABLE KEYS */;
INSERT IGNORE INTO "registeredPush" ("cid", "user", "client") VALUES (1,3,'open-xchange-mailapp');
/*!40000 ALTER TABLE "registeredPush" ENABLE KEYS */;
UNLOCK TABLES;

--
-- Dumping data for table "credentials"
--

LOCK TABLES "credentials" WRITE;
/*!40000 ALTER TABLE "credentials" DISABLE KEYS */;
INSERT IGNORE INTO "credentials" ("cid", "user", "password", "login") VALUES (1,3,'se\'aled;\\','anna');
/*!40000 ALTER TABLE "credentials" ENABLE KEYS */;
UNLOCK TABLES;
/*!40103 SET TIME_ZONE=@OLD_TIME_ZONE */;

/*!40101 SET SQL_MODE=@OLD_SQL_MODE */;
/*!40014 SET FOREIGN_KEY_CHECKS=@OLD_FOREIGN_KEY_CHECKS */;
/*!40111 SET SQL_NOTES=@OLD_SQL_NOTES */;

-- Dump completed
